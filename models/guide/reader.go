package guide

import (
	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tokenizer"
)

// ownTemplate joins prompt and response for a guide that has its own tokenizer and therefore no chat format.
const ownTemplate = "{prompt}\n\n"

// Text is a prompt with one response, as text and as the policy's token ids.
type Text struct {
	Prompt, Response       string
	PromptIDs, ResponseIDs []int64
}

// Reader turns texts into the sequences that a guide reads. These are the policy's token ids or, for a guide with its own
// tokenizer, the ids of that tokenizer.
type Reader struct {
	format *tokenizer.Format
	limits tokenizer.Limits
}

// NewReader returns the reader of a guide. tok is nil for a guide that reads the policy's ids. With a tokenizer, the limits
// count the guide's tokens: a longer prompt keeps its last tokens and a longer response its first. If the limits together
// exceed most, the guide's MaxLength, the response gets up to half of most and the prompt the rest. A sampled response may be
// any text; it ends where it contains the tokenizer's end-of-sequence token.
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

// Sequence returns a text as the guide reads it.
func (r Reader) Sequence(t Text) (models.Sequence, error) {
	if r.format == nil {
		return models.Join(t.PromptIDs, t.ResponseIDs), nil
	}
	if t.Response == "" {
		t.Response = " " // a sample may be empty, but a guide needs a response
	}
	tokens, err := r.format.Fit(t.Prompt, t.Response, r.limits)
	if err != nil {
		return models.Sequence{}, err
	}
	return models.Join(tokens.Prompt, tokens.Response), nil
}
