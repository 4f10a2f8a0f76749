package models

import (
	"errors"
	"fmt"
)

// ErrSequence means a sequence that does not fit what is asked of it: too long, without a prompt or response, or with a
// token that is not in the vocabulary.
var ErrSequence = errors.New("models: sequence")

// Sequence is a prompt followed by a response.
type Sequence struct {
	IDs       []int64
	PromptLen int // how many of IDs are the prompt
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

// RowStep is what the number of rows of a batch should be a multiple of when a row may stand at any place in it. Matrix
// products hand out their rows to threads in blocks: with 5, 6, 7, 9, 10 or 11 rows at two threads, the last rows go
// through another kernel and get other last bits; with a multiple of 4 all rows go through the same one.
const RowStep = 4

// PadRule fixes the shape of a batch: Rows rows of Length tokens, whatever is in it. Shorter sequences are padded on
// the right, missing rows at the end. Two batches of one rule, its Rows a multiple of RowStep, give a row the same
// numbers to the last bit.
type PadRule struct{ Rows, Length int }

// Pad lays out sequences by the rule, row after row: [Rows·Length] ids, 0 where there is no token. Every sequence must
// have a prompt and fit; the error wraps ErrSequence and names the row.
func (p PadRule) Pad(rows []Sequence) ([]int64, error) {
	if p.Rows < 1 || p.Length < 1 {
		return nil, fmt.Errorf("models: pad to %d rows of %d tokens: both must be at least 1", p.Rows, p.Length)
	}
	if len(rows) > p.Rows {
		return nil, fmt.Errorf("%w: %d rows in a batch of %d", ErrSequence, len(rows), p.Rows)
	}
	ids := make([]int64, p.Rows*p.Length)
	for i, row := range rows {
		if row.PromptLen < 1 || row.PromptLen > len(row.IDs) || len(row.IDs) > p.Length {
			return nil, fmt.Errorf("%w: row %d has %d tokens, %d of them prompt: want a prompt and at most %d tokens",
				ErrSequence, i, len(row.IDs), row.PromptLen, p.Length)
		}
		copy(ids[i*p.Length:], row.IDs)
	}
	return ids, nil
}

// Bucket rounds a length up to a multiple of step, and not above most: the length that a row is padded to must be a
// function of the row alone.
func Bucket(length, step, most int) int {
	return min((length+step-1)/step*step, most)
}
