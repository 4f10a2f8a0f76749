package decode

import (
	"context"
	"fmt"
	"slices"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
)

// batch is the tokens of a step, and the positions in it behind which a token is sampled.
type batch struct {
	tokens []models.Token
	at     []int64
	rows   []*row
	fill   int // number of rows in the model's matrices, where that affects the last bits
}

// batches returns the tokens to compute in the next step: the last sampled token of each row in its response, in the order
// of slots, and up to Options.Prefill tokens of prompts, those of older requests first. A packed model computes them together.
// For another model the last bits depend on the number of tokens in a step, so each kind gets steps of its own fixed size.
func (w *loaded) batches(rows []*row) []batch {
	response, prompt := batch{fill: w.opts.Slots}, batch{fill: w.opts.Prefill}
	waiting := make([]*row, 0, len(rows))
	for _, r := range rows {
		if r.fed < len(r.request.IDs) {
			waiting = append(waiting, r)
			continue
		}
		n := len(r.result.IDs)
		response.add(r, r.result.IDs[n-1], len(r.request.IDs)+n-1)
		response.sample(r)
	}
	slices.SortFunc(waiting, func(a, b *row) int { return a.number - b.number })
	into := &prompt
	if w.Model.Packed() {
		into = &response
	}
	left := w.opts.Prefill
	for _, r := range waiting {
		n := min(left, len(r.request.IDs)-r.fed)
		for _, id := range r.request.IDs[r.fed : r.fed+n] {
			into.add(r, id, r.fed)
			r.fed++
		}
		if n > 0 && r.fed == len(r.request.IDs) {
			into.sample(r)
		}
		left -= n
	}
	return slices.DeleteFunc([]batch{response, prompt}, func(b batch) bool { return len(b.tokens) == 0 })
}

func (b *batch) add(r *row, id int64, position int) {
	b.tokens = append(b.tokens, models.Token{ID: id, Slot: r.slot, Position: position})
}

// sample requests a token behind the last one added.
func (b *batch) sample(r *row) {
	b.at = append(b.at, int64(len(b.tokens)-1))
	b.rows = append(b.rows, r)
}

// compute runs the model over a batch, and samples the next token of each of its rows. do is the engine's Do or DoFirst.
func (w *loaded) compute(
	ctx context.Context, do func(context.Context, func(*tensor.Scope) error) error, b batch,
) (drawn []tensor.Drawn, err error) {
	draws := make([]tensor.Draw, len(b.rows))
	for i, r := range b.rows {
		draws[i] = r.draw()
	}
	err = do(ctx, func(s *tensor.Scope) error {
		return s.NoGrad(func(s *tensor.Scope) error {
			if w.cache == nil {
				w.cache = w.Model.NewCache(s, w.opts.cache())
			}
			h := w.cache.Step(s, b.tokens, b.fill)
			if len(b.rows) > 0 {
				drawn = w.cache.Logits(s, h.IndexSelect(0, s.FromInt64(b.at, int64(len(b.at))))).Sample(draws)
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	return drawn, nil
}
