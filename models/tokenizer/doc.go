// Package tokenizer turns text into token ids and back with Hugging Face's own tokenizers library, renders
// conversations with the tokenizer's Jinja chat template, and fixes how a prompt and a response become one sequence.
//
// # Where the prompt ends and the response begins
//
// Generation starts from tokens(prompt) and continues with sampled ids, so a response in training and scoring must
// begin at that same place. A Format gives, for a prompt x and a human response y:
//
//   - the prompt's ids: tokens(rendered x with the generation prompt), the very ids that generation starts from;
//   - the response's ids: tokens(rendered x and y) with the prompt's ids taken off the front. Where the tokenizer
//     would merge over the boundary, so that the prompt's ids are no prefix, tokens(rendered y) on its own, provided
//     that both together decode to the same text; if they do not, ErrNotPrefix.
//
// The response ends with exactly one end-of-sequence token, where sampling stops: what a template puts after it (a
// newline, as a rule) is dropped, and it is added where the template has none. A generated response is never
// tokenised again: it is the ids that were sampled.
//
// No special tokens are added to a prompt beyond those that the template writes.
//
// The clock of a template's strftime_now stands at 26 July 2024: a prompt does not depend on the day.
//
// A byte sequence that is not UTF-8 is read as U+FFFD.
//
// # The library
//
// Hugging Face's tokenizers and minijinja are Rust libraries behind a small C interface (bridge/bridge.h). A panic in them
// is an error here; nothing in a file ends the process.
//
// Load tries each part of a tokenizer.json once, so faults that the library finds only at work are errors of Load. The
// time of the file's regular expressions is not bounded.
//
// A chat template is not trusted. It reaches no files, and what it does is bounded: in the size of its source and of one
// tag, and at two million steps or 122 MiB of text for one rendering. It renders as transformers has jinja2 render it;
// bridge/src/python.rs has what minijinja lacks of that, and ADR 0029 what is still missing. A template that needs more is
// ErrTemplate; a run can then name one of its own (FormatOptions).
//
// tokenizer.json has the last word. transformers 5 builds the tokenizers of some classes (LlamaTokenizer) anew from the
// vocabulary, with other rules for a space before the text and after special tokens; which special tokens are added
// (BOS, EOS) is the file's in both, whatever add_bos_token says.
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
	// ErrNotPrefix means that prompt and response do not part at a token boundary.
	ErrNotPrefix = errors.New("tokenizer: the prompt is not a prefix of prompt and response")
)
