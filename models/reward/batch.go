package reward

import (
	"fmt"
	"slices"

	"github.com/ldalign/ldalign/models"
)

// PadRule is the shape of a batch: Rows rows of Length tokens. Shorter sequences are padded on the right, and missing rows are
// added at the end. A row gets the same numbers, to the last bit, in all batches of one rule whose Rows is a multiple of
// models.RowStep.
type PadRule struct{ Rows, Length int }

// pad pads sequences by the rule, row after row: [Rows·Length] ids, 0 where there is no token. Every sequence must have a
// prompt and fit; otherwise the error wraps models.ErrSequence and names the row.
func (p PadRule) pad(rows []models.Sequence) ([]int64, error) {
	if p.Rows < 1 || p.Length < 1 {
		return nil, fmt.Errorf("reward: pad to %d rows of %d tokens: both must be at least 1", p.Rows, p.Length)
	}
	if len(rows) > p.Rows {
		return nil, fmt.Errorf("%w: %d rows in a batch of %d", models.ErrSequence, len(rows), p.Rows)
	}
	ids := make([]int64, p.Rows*p.Length)
	for i, row := range rows {
		if row.PromptLen < 1 || row.PromptLen > len(row.IDs) || len(row.IDs) > p.Length {
			return nil, fmt.Errorf("%w: row %d has %d tokens, %d of them prompt: want a prompt and at most %d tokens",
				models.ErrSequence, i, len(row.IDs), row.PromptLen, p.Length)
		}
		copy(ids[i*p.Length:], row.IDs)
	}
	return ids, nil
}

// batch is some of many sequences, with the shape in which they are computed.
type batch struct {
	rows []models.Sequence
	// index has the index of each row among the many sequences.
	index []int
	pad   PadRule
}

// batches sorts sequences into batches of fixed shapes: at most size rows whose lengths round up to the same multiple of step
// (but at most most). So the shape for a sequence depends on its own length only, and its numbers do not depend on the other
// sequences. Batches come in order of length, rows in the order given.
func batches(rows []models.Sequence, size, step, most int) []batch {
	byLength := map[int][]int{}
	var lengths []int
	for i, row := range rows {
		n := min((len(row.IDs)+step-1)/step*step, most)
		if byLength[n] == nil {
			lengths = append(lengths, n)
		}
		byLength[n] = append(byLength[n], i)
	}
	slices.Sort(lengths)
	var out []batch
	for _, n := range lengths {
		for part := range slices.Chunk(byLength[n], size) {
			b := batch{index: part, pad: PadRule{Rows: size, Length: n}}
			for _, i := range part {
				b.rows = append(b.rows, rows[i])
			}
			out = append(out, b)
		}
	}
	return out
}
