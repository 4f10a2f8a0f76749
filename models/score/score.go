// Package score computes the log-probabilities of given responses, equation (1), on the same by-token path as models/decode.
// Sequences are packed into steps of a fixed number of tokens, without padding between them; logits exist only where a
// response token is predicted, a few at a time. So memory is bounded by the step and the longest sequence, not by the
// number of sequences or the vocabulary times the prompt; and a sequence's numbers do not depend on the others.
package score

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
)

// Options decide speed and memory only, never a number.
type Options struct {
	Step int // tokens that are computed together; 0 is 256
}

// LogProbs gives log p(token | all before) for every response token of every row, in the order of rows. A row needs a
// prompt and at most Config.MaxLength tokens of the vocabulary, otherwise the error wraps models.ErrSequence and names
// the row. A step is one call of Engine.Do; ctx ends the work soon. onProgress, if not nil, is told how many tokens are
// done.
func LogProbs(
	ctx context.Context, m *models.Model, rows []models.Sequence, opts Options, onProgress func(tokens int),
) ([][]float32, error) {
	if opts.Step == 0 {
		opts.Step = 256
	}
	cfg := m.Config()
	order := make([]int, len(rows))
	for i, row := range rows {
		order[i] = i
		if row.PromptLen < 1 || row.PromptLen > len(row.IDs) || len(row.IDs) > cfg.MaxLength() {
			return nil, fmt.Errorf("score: %w: row %d has %d tokens, %d of them prompt: want a prompt and at most %d tokens",
				models.ErrSequence, i, len(row.IDs), row.PromptLen, cfg.MaxLength())
		}
		for _, id := range row.IDs {
			if id < 0 || id >= int64(cfg.Vocab) {
				return nil, fmt.Errorf("score: %w: row %d: token %d is not in the vocabulary of %d",
					models.ErrSequence, i, id, cfg.Vocab)
			}
		}
	}
	// Rows of like length come together: they share a cache whose slots they fill.
	slices.SortStableFunc(order, func(a, b int) int { return len(rows[a].IDs) - len(rows[b].IDs) })
	out := make([][]float32, len(rows))
	done := 0
	for len(order) > 0 {
		shortest := len(rows[order[0]].IDs)
		n := slices.IndexFunc(order, func(i int) bool { return len(rows[i].IDs) > max(32, 2*shortest) })
		if n < 0 {
			n = len(order)
		}
		g := group{model: m, rows: rows, order: order[:n], out: out, step: opts.Step}
		err := g.run(ctx, func(tokens int) {
			done += tokens
			if onProgress != nil {
				onProgress(done)
			}
		})
		if err != nil {
			return nil, fmt.Errorf("score: %w", err)
		}
		order = order[n:]
	}
	return out, nil
}

// group are rows of like length.
type group struct {
	model *models.Model
	rows  []models.Sequence
	order []int // indices of rows, which run one after the other
	out   [][]float32
	step  int
}

// prediction is one number wanted: a token, behind a token of the step.
type prediction struct {
	row    int
	target int64
	at     int64
}

// run feeds the rows to the model, each to its last but one token, in steps of g.step tokens.
func (g group) run(ctx context.Context, progress func(tokens int)) (err error) {
	first, last := len(g.rows[g.order[0]].IDs), len(g.rows[g.order[len(g.order)-1]].IDs)
	// A step touches the rows that begin in it, and one that began before.
	size := models.CacheOptions{Slots: min(len(g.order), g.step/max(1, first-1)+2), Length: last, Burst: min(g.step, last)}
	var cache *models.Cache
	defer func() {
		err = errors.Join(err, g.model.Engine().Do(context.WithoutCancel(ctx), func(*tensor.Scope) error {
			if cache != nil {
				cache.Free()
			}
			return nil
		}))
	}()
	for next, fed := 0, 0; next < len(g.order); {
		var tokens []models.Token
		var wanted []prediction
		for next < len(g.order) && len(tokens) < g.step {
			row := g.rows[g.order[next]]
			for fed < len(row.IDs)-1 && len(tokens) < g.step {
				tokens = append(tokens, models.Token{ID: row.IDs[fed], Slot: next % size.Slots, Position: fed})
				fed++
				if fed >= row.PromptLen {
					wanted = append(wanted, prediction{g.order[next], row.IDs[fed], int64(len(tokens) - 1)})
				}
			}
			if fed >= len(row.IDs)-1 {
				next, fed = next+1, 0
			}
		}
		if len(tokens) == 0 { // rows of one token have nothing to predict
			break
		}
		var values []float32
		err := g.model.Engine().Do(ctx, func(s *tensor.Scope) error {
			return s.NoGrad(func(s *tensor.Scope) error {
				if cache == nil {
					cache = g.model.NewCache(s, size)
				}
				values = predict(s, cache, cache.Step(s, tokens, g.step), wanted)
				return nil
			})
		})
		if err != nil {
			return err
		}
		for i, p := range wanted {
			g.out[p.row] = append(g.out[p.row], values[i])
		}
		progress(len(tokens))
	}
	return nil
}

// headRows is how many positions go through the output head together: [headRows, V] bounds the memory.
const headRows = 64

// predict is log softmax of the logits behind the tokens of a step, h [M, H], at what was wanted.
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
