package decode

import (
	"context"
	"fmt"
	"slices"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
)

// decoder is the state of a Run.
type decoder struct {
	model *models.Model
	opts  Options
	cache *models.Cache // nil before the first step
	slots []*row        // nil where a slot is free
}

// row is a request that is being decoded.
type row struct {
	index, slot int
	req         Request
	limit       int
	fed         int     // tokens of the prompt that the cache holds
	seen        []int64 // prompt and response, for the repetition penalty; nil without one
	result      Result
}

func newRow(index, slot int, req Request, opts Options) *row {
	r := &row{index: index, slot: slot, req: req, limit: opts.limit(req)}
	if opts.sampling().RepetitionPenalty != 1 {
		r.seen = slices.Clone(req.IDs)
	}
	return r
}

// batch is the tokens of a step, and which of them the next token of a row is sampled behind.
type batch struct {
	tokens []models.Token
	at     []int64
	rows   []*row
	fill   int // rows of the model's matrices, where those decide the last bit
}

// batches are the tokens that can be computed now: the last sampled one of every row in its response, and prompts, older
// requests first, up to Options.Prefill tokens. A packed model takes them together; another one, whose last bit depends
// on the number of tokens in a step, takes each kind in steps of its own size.
func (d *decoder) batches() []batch {
	response, prompt := batch{fill: d.opts.Slots}, batch{fill: d.opts.Prefill}
	waiting := make([]*row, 0, len(d.slots))
	for _, r := range d.slots {
		switch {
		case r == nil:
		case r.fed < len(r.req.IDs):
			waiting = append(waiting, r)
		default:
			n := len(r.result.IDs)
			response.add(r, r.result.IDs[n-1], len(r.req.IDs)+n-1)
			response.sample(r)
		}
	}
	slices.SortFunc(waiting, func(a, b *row) int { return a.index - b.index })
	into := &prompt
	if d.model.Packed() {
		into = &response
	}
	left := d.opts.Prefill
	for _, r := range waiting {
		n := min(left, len(r.req.IDs)-r.fed)
		for _, id := range r.req.IDs[r.fed : r.fed+n] {
			into.add(r, id, r.fed)
			r.fed++
		}
		if n > 0 && r.fed == len(r.req.IDs) {
			into.sample(r)
		}
		left -= n
	}
	return slices.DeleteFunc([]batch{response, prompt}, func(b batch) bool { return len(b.tokens) == 0 })
}

func (b *batch) add(r *row, id int64, position int) {
	b.tokens = append(b.tokens, models.Token{ID: id, Slot: r.slot, Position: position})
}

// sample asks for the token behind the last one added.
func (b *batch) sample(r *row) {
	b.at = append(b.at, int64(len(b.tokens)-1))
	b.rows = append(b.rows, r)
}

// step computes one batch of each kind, and ends the rows that have come to their end.
func (d *decoder) step(ctx context.Context, done func(int, Result) error) error {
	for _, b := range d.batches() {
		var tokens []int64
		var logprobs []float32
		err := d.model.Engine().Do(ctx, func(s *tensor.Scope) error {
			return s.NoGrad(func(s *tensor.Scope) error {
				if d.cache == nil {
					d.cache = d.model.NewCache(s, d.opts.cache())
				}
				h := d.cache.Step(s, b.tokens, b.fill)
				if len(b.rows) > 0 {
					tokens, logprobs = d.draw(s, h.IndexSelect(0, s.FromInt64(b.at, int64(len(b.at)))), b.rows)
				}
				return nil
			})
		})
		if err != nil {
			return err
		}
		for i, r := range b.rows {
			if tokens[i] < 0 {
				return fmt.Errorf("%w: request %d, token %d of its response", ErrNotFinite, r.index, len(r.result.IDs))
			}
			if !r.append(tokens[i], logprobs[i], d.opts.Stop) {
				continue
			}
			d.slots[r.slot] = nil
			if err := done(r.index, r.result); err != nil {
				return err
			}
		}
	}
	return nil
}

// draw samples the next token of each row: h [N, H].
func (d *decoder) draw(s *tensor.Scope, h *tensor.Tensor, rows []*row) (tokens []int64, logprobs []float32) {
	u, seen := make([]float64, len(rows)), make([][]int64, len(rows))
	for i, r := range rows {
		u[i], seen[i] = models.Uniform(r.req.Seed, len(r.result.IDs)), r.seen
	}
	return d.cache.Logits(s, h).Sample(d.opts.sampling(), u, seen)
}

// append takes a sampled token and tells whether the response has ended.
func (r *row) append(id int64, logprob float32, stop []int64) bool {
	r.result.IDs = append(r.result.IDs, id)
	r.result.LogProbs = append(r.result.LogProbs, logprob)
	if r.seen != nil {
		r.seen = append(r.seen, id)
	}
	halt := r.req.OnToken != nil && r.req.OnToken(id, logprob)
	switch {
	case halt || slices.Contains(stop, id):
		r.result.Reason = Stop
	case len(r.result.IDs) == r.limit:
		r.result.Reason = Length
	}
	return r.result.Reason != ""
}
