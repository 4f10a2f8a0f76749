package models

import (
	"errors"
	"fmt"
	"slices"
)

// ErrSequence means a sequence that does not fit what is asked of it: too long, without a prompt or response, or with a
// token that is not in the vocabulary.
var ErrSequence = errors.New("models: sequence")

// Sequence is a prompt followed by a response.
type Sequence struct {
	IDs       []int64
	PromptLen int // how many of IDs are the prompt
}

// Join is a prompt with its response.
func Join(prompt, response []int64) Sequence {
	return Sequence{IDs: slices.Concat(prompt, response), PromptLen: len(prompt)}
}

// Response are the tokens behind the prompt.
func (q Sequence) Response() []int64 { return q.IDs[q.PromptLen:] }

// Takes tells why the model does not take a sequence: it has no prompt, is too long, or has an id outside of the vocabulary.
// The error wraps ErrSequence.
func (m *Model) Takes(row Sequence) error { return m.takes(row, 0) }

// takes is Takes for a sequence behind front places.
func (m *Model) takes(row Sequence, front int) error {
	if row.PromptLen < 1 || row.PromptLen > len(row.IDs) || front+len(row.IDs) > m.cfg.MaxLength() {
		return fmt.Errorf("%w: it has %d tokens, %d of them prompt: want a prompt and at most %d tokens",
			ErrSequence, len(row.IDs), row.PromptLen, m.cfg.MaxLength()-front)
	}
	for _, id := range row.IDs {
		if id < 0 || id >= int64(m.cfg.Vocab) {
			return fmt.Errorf("%w: token %d is not in the vocabulary of %d", ErrSequence, id, m.cfg.Vocab)
		}
	}
	return nil
}
