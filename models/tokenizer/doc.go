// Package tokenizer turns text into token ids and back with Hugging Face's own tokenizers library, renders
// conversations with the tokenizer's Jinja chat template, and fixes how a prompt and a response become one sequence.
//
// # Where the prompt ends and the response begins
//
// Generation starts from tokens(prompt) and continues with sampled ids, so a response in training and scoring must
// begin at that same place. For a prompt x and a human response y, a Format returns:
//
//   - the prompt's ids: tokens(rendered x with the generation prompt), exactly the ids that generation starts from;
//   - the response's ids: tokens(rendered x and y) without the prompt's ids at the beginning. If the tokenizer merges
//     tokens over the boundary, so that the prompt's ids are no prefix, they are tokens(rendered y) on its own, provided
//     that both together decode to the same text. If they do not, the error is ErrNotPrefix.
//
// The response ends with exactly one end-of-sequence token, where sampling stops. Whatever a template writes after that token
// (usually a newline) is dropped, and the token is added if the template does not write it. A generated response is never
// tokenised again: its ids are the ids that were sampled.
//
// A prompt has no special tokens but those that the template writes.
//
// In a template, strftime_now always returns 26 July 2024, so a prompt does not depend on the day.
//
// A byte sequence that is not UTF-8 is read as U+FFFD.
//
// # The library
//
// Hugging Face's tokenizers and minijinja are Rust libraries behind a small C interface (bridge/bridge.h). A panic in them
// becomes an error, so no file can end the process.
//
// Load tries each part of a tokenizer.json once, so that faults which the library only finds in use become errors of Load. The
// time that the file's regular expressions take is not limited.
//
// A chat template is not trusted. It cannot read files. The size of its source and of one tag are limited, and a rendering is
// limited to two million steps and 122 MiB of text. The result is that of jinja2 in transformers; bridge/src/python.rs adds what
// minijinja lacks for that, and ADR 0029 lists what is still missing. A template that needs more gives ErrTemplate; a run can
// then set a template of its own (FormatOptions).
//
// tokenizer.json decides where files disagree. transformers 5 rebuilds the tokenizers of some classes (LlamaTokenizer) from
// the vocabulary, with other rules for a space before the text and after special tokens. In both, the file alone decides which
// special tokens (BOS, EOS) are added, whatever add_bos_token says.
package tokenizer

import "errors"

var (
	// ErrNoTokenizer means that there is no tokenizer.json.
	ErrNoTokenizer = errors.New("tokenizer: no tokenizer.json")
	// ErrFormat means that a file of the tokenizer is malformed or contradicts another.
	ErrFormat = errors.New("tokenizer: invalid format")
	// ErrTemplate means that the chat template is missing, cannot be compiled, or refused the conversation.
	ErrTemplate = errors.New("tokenizer: chat template")
	// ErrEncode means that the tokenizer has no tokens for a text, or that the text holds an end-of-sequence token.
	ErrEncode = errors.New("tokenizer: cannot encode")
	// ErrNotPrefix means that there is no token boundary between prompt and response.
	ErrNotPrefix = errors.New("tokenizer: the prompt is not a prefix of prompt and response")
)
