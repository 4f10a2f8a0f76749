package guide

import (
	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tokenizer"
)

// ownTemplate joins prompt and response for a guide with a tokenizer of its own, which knows no chat format.
const ownTemplate = "{prompt}\n\n"

// Text is a prompt with one response, as text and as the policy's token ids.
type Text struct {
	Prompt, Response       string
	PromptIDs, ResponseIDs []int64
}

// Reader turns texts into the sequences that a guide reads: the policy's token ids as they are, or, for a guide with a
// tokenizer of its own, that tokenizer's.
type Reader struct {
	format *tokenizer.Format
	limits tokenizer.Limits
}

// NewReader makes the reader of a guide. tok is nil for a guide that reads the policy's ids. With a tokenizer, a prompt
// keeps its last and a response its first tokens up to the limits, counted in the guide's tokens; where both together are
// over most, the guide's MaxLength, the response gets up to half of it and the prompt the rest. A response that the policy has
// sampled may be any text: one that holds the tokenizer's end-of-sequence token ends there.
func NewReader(tok *tokenizer.Tokenizer, limits tokenizer.Limits, most int) (Reader, error) {
	if tok == nil {
		return Reader{}, nil
	}
	if limits.Prompt+limits.Response > most {
		limits.Response = min(limits.Response, most/2)
		limits.Prompt = min(limits.Prompt, most-limits.Response)
	}
	format, err := tokenizer.NewFormat(tok, tokenizer.FormatOptions{Template: ownTemplate, CutAtEnd: true})
	limits.Reject = false
	return Reader{format: format, limits: limits}, err
}

// Sequence is one text as the guide reads it.
func (r Reader) Sequence(t Text) (models.Sequence, error) {
	if r.format == nil {
		return models.Join(t.PromptIDs, t.ResponseIDs), nil
	}
	if t.Response == "" {
		t.Response = " " // a sample may be empty: the guide then reads next to nothing
	}
	tokens, err := r.format.Fit(t.Prompt, t.Response, r.limits)
	if err != nil {
		return models.Sequence{}, err
	}
	return models.Join(tokens.Prompt, tokens.Response), nil
}
