package models

import (
	"errors"
	"fmt"
	"slices"

	"github.com/ldalign/ldalign/models/architecture"
)

// ErrSequence means that a sequence is too long, lacks a prompt or a response that is needed, or has a token outside the
// vocabulary.
var ErrSequence = errors.New("models: sequence")

// Sequence is a prompt followed by a response.
type Sequence struct {
	IDs       []int64
	PromptLen int // how many of IDs are the prompt
}

// Join makes a sequence of a prompt and its response.
func Join(prompt, response []int64) Sequence {
	return Sequence{IDs: slices.Concat(prompt, response), PromptLen: len(prompt)}
}

// Response is the tokens after the prompt.
func (q Sequence) Response() []int64 { return q.IDs[q.PromptLen:] }

// fits returns an error if a model cannot take the sequence after front other positions. The error wraps ErrSequence.
func (q Sequence) fits(cfg architecture.Config, front int) error {
	if q.PromptLen < 1 || q.PromptLen > len(q.IDs) || front+len(q.IDs) > cfg.MaxLength() {
		return fmt.Errorf("%w: it has %d tokens, %d of them prompt: want a prompt and at most %d tokens",
			ErrSequence, len(q.IDs), q.PromptLen, cfg.MaxLength()-front)
	}
	for _, id := range q.IDs {
		if id < 0 || id >= int64(cfg.Vocab) {
			return fmt.Errorf("%w: token %d is not in the vocabulary of %d", ErrSequence, id, cfg.Vocab)
		}
	}
	return nil
}
