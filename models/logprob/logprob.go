// Package logprob computes the log-probabilities of given responses, equation (1), token by token as models/decode does, by
// models.Walk. Logits exist only where a response token is predicted, a few at a time. So the step and the longest sequence
// bound the memory, not the number of sequences or the vocabulary times the prompt, and a sequence's numbers do not depend
// on the others.
package logprob

import (
	"context"
	"fmt"
	"slices"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
)

// Options decide speed and memory, never a number.
type Options struct {
	Step int // tokens that are computed together; 0 is 256
}

// Tokens gives log p(token | all before) of every response token of every row, in the order of rows. A row needs a prompt
// and at most Config.MaxLength tokens of the vocabulary; otherwise the error wraps models.ErrSequence and names the row. A
// step is one call of Engine.Do; ctx ends the work after the step in progress. onProgress, if not nil, gets the number of
// tokens done so far.
func Tokens(
	ctx context.Context, m *models.Model, rows []models.Sequence, opts Options, onProgress func(tokens int),
) ([][]float32, error) {
	for i, row := range rows {
		if err := m.Takes(row); err != nil {
			return nil, fmt.Errorf("logprob: row %d: %w", i, err)
		}
	}
	var walked [][]int64 // all tokens that another one follows
	var index []int
	for i, row := range rows {
		if n := len(row.IDs) - 1; n > 0 {
			walked, index = append(walked, row.IDs[:n]), append(index, i)
		}
	}
	out := make([][]float32, len(rows))
	done := 0
	visit := func(s *tensor.Scope, c *models.Cache, h *tensor.Tensor, at []models.Position) error {
		var wanted []prediction
		for k, p := range at {
			if row := rows[index[p.Row]]; p.At+1 >= row.PromptLen {
				wanted = append(wanted, prediction{row: index[p.Row], target: row.IDs[p.At+1], at: int64(k)})
			}
		}
		values := predict(s, c, h, wanted)
		if err := s.Err(); err != nil {
			return err
		}
		for i, p := range wanted {
			out[p.row] = append(out[p.row], values[i])
		}
		if done += len(at); onProgress != nil {
			onProgress(done)
		}
		return nil
	}
	if err := models.Walk(ctx, m, walked, opts.Step, visit); err != nil {
		return nil, fmt.Errorf("logprob: %w", err)
	}
	return out, nil
}

// prediction names a wanted log-probability: that of target after the token with index at in the step.
type prediction struct {
	row    int
	target int64
	at     int64
}

// headRows is how many positions go through the output head together: [headRows, V] bounds the memory.
const headRows = 64

// predict is log softmax of the logits after the tokens of a step, h [M, H], at the wanted targets.
func predict(s *tensor.Scope, cache *models.Cache, h *tensor.Tensor, wanted []prediction) []float32 {
	var values []float32
	for part := range slices.Chunk(wanted, headRows) {
		at, targets := make([]int64, len(part)), make([]int64, len(part))
		for i, p := range part {
			at[i], targets[i] = p.at, p.target
		}
		s.Fail(s.Scope(func(s *tensor.Scope) error {
			n := int64(len(part))
			logits := cache.Logits(s, h.IndexSelect(0, s.FromInt64(at, n)))
			values = append(values, logits.LogSoftmaxAt(s.FromInt64(targets, n)).Float32s()...)
			return nil
		}))
	}
	return values
}

// Sums adds up the log-probabilities of each response: log p(y|x).
func Sums(logprobs [][]float32) []float64 {
	sums := make([]float64, len(logprobs))
	for i, row := range logprobs {
		for _, v := range row {
			sums[i] += float64(v)
		}
	}
	return sums
}
