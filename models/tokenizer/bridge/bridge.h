// The interface to Hugging Face's tokenizers and minijinja that package tokenizer calls.
//
// Each call returns a status and fills out: with its result if the status is LDALIGN_OK, else with an error as UTF-8. The caller
// passes out to ldalign_free in both cases. Texts are UTF-8 with a length; invalid bytes are read as U+FFFD. No call ends the
// process: a panic in the libraries is LDALIGN_ERROR. Several threads may use a handle at once, but not after its free.

#ifndef LDALIGN_BRIDGE_H
#define LDALIGN_BRIDGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	LDALIGN_OK = 0,
	LDALIGN_ERROR = 1,
	LDALIGN_REFUSED = 2, // the template called raise_exception; the text is its message
};

typedef struct {
	void *data; // NULL where there is nothing
	size_t len; // in bytes
	size_t room;
	size_t align;
} ldalign_buffer;

void ldalign_free(ldalign_buffer buffer);

typedef struct ldalign_tokenizer ldalign_tokenizer;

// The result is JSON: {"vocab": the greatest id + 1, "special": [ids], "bytes": [ids]}, see tokens.rs.
int32_t ldalign_tokenizer_new(const uint8_t *file, size_t len, ldalign_tokenizer **tokenizer, ldalign_buffer *out);
int32_t ldalign_tokenizer_free(ldalign_tokenizer *tokenizer, ldalign_buffer *out);
// The result is one id of 32 bits, or none.
int32_t ldalign_tokenizer_id(const ldalign_tokenizer *tokenizer, const uint8_t *token, size_t len, ldalign_buffer *out);
// The result is ids of 32 bits.
int32_t ldalign_tokenizer_encode(const ldalign_tokenizer *tokenizer, const uint8_t *text, size_t len, bool special,
	ldalign_buffer *out);
// The result is text. An id outside the vocabulary has none.
int32_t ldalign_tokenizer_decode(const ldalign_tokenizer *tokenizer, const uint32_t *ids, size_t len, bool skip_special,
	ldalign_buffer *out);

typedef struct ldalign_template ldalign_template;

int32_t ldalign_template_new(const uint8_t *source, size_t len, ldalign_template **template_, ldalign_buffer *out);
int32_t ldalign_template_free(ldalign_template *template_, ldalign_buffer *out);
// The context is a JSON object; the result is text.
int32_t ldalign_template_render(const ldalign_template *template_, const uint8_t *context, size_t len, ldalign_buffer *out);

#endif
