// Package decode samples responses from a model. The text of a request is a function of the model, the request and the
// options: never of the other requests, of their number or order, or of the machine's other work. Three things see to
// it. Requests are grouped by their own length, and a group always has the same shape: opts.Slots rows, empty ones
// filled up, prompts padded to a multiple of opts.Bucket. The cache's attention depends on a row alone (models.Cache).
// And the random number behind a token is a function of the request's seed and the token's number (models.Uniform).
package decode

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
)

// ErrRequest means a request or options that cannot be decoded.
var ErrRequest = errors.New("decode: invalid request")

// Request is one prompt.
type Request struct {
	IDs  []int64
	Seed uint64 // of all its random numbers
}

// Reasons why a response ended.
const (
	Stop   = "stop"   // an end token was sampled
	Length = "length" // Options.MaxNew tokens were sampled
)

// Result is one response.
type Result struct {
	// IDs are the sampled tokens, the end token included, so that a model can be trained on where to stop.
	IDs    []int64
	Reason string // Stop or Length
}

// Options say how to decode. All of them but Stop and Pad decide the shapes, and so the last bit.
type Options struct {
	MaxNew      int     // tokens at most, at least 1
	Temperature float64 // divides the logits; 0 takes the most probable token
	TopP        float64 // samples among the most probable tokens that together reach this probability; 1 takes all
	Stop        []int64 // end tokens
	Slots       int     // rows that decode together: 1, or a multiple of models.RowStep
	Bucket      int     // lengths are rounded up to a multiple of it
	Pad         int64   // a token for where there is none; any will do
}

func (o Options) validate(cfg models.Config) error {
	switch {
	case o.MaxNew < 1 || o.Slots < 1 || o.Bucket < 1:
		return fmt.Errorf("%w: MaxNew %d, Slots %d and Bucket %d must be at least 1", ErrRequest, o.MaxNew, o.Slots, o.Bucket)
	case o.Slots != 1 && o.Slots%models.RowStep != 0:
		return fmt.Errorf("%w: %d slots: want 1 or a multiple of %d, so that a row's place cannot change its text",
			ErrRequest, o.Slots, models.RowStep)
	case !(o.Temperature >= 0):
		return fmt.Errorf("%w: temperature %g is below 0", ErrRequest, o.Temperature)
	case !(o.TopP > 0 && o.TopP <= 1):
		return fmt.Errorf("%w: top-p %g is not in (0, 1]", ErrRequest, o.TopP)
	case o.Pad < 0 || o.Pad >= int64(cfg.Vocab):
		return fmt.Errorf("%w: pad token %d is not in the vocabulary of %d", ErrRequest, o.Pad, cfg.Vocab)
	}
	return nil
}

// Generate decodes all requests and returns their results in the same order. Prompt and MaxNew together must fit
// Config.MaxLength. A call of Engine.Do is one token of one group, so others can use the engine in between and ctx
// ends the work soon; then the error is ctx's and there are no results. onProgress, if not nil, is told how many
// requests are done.
func Generate(
	ctx context.Context, m *models.Model, reqs []Request, opts Options, onProgress func(done int),
) ([]Result, error) {
	cfg := m.Config()
	if err := opts.validate(cfg); err != nil {
		return nil, err
	}
	for i, r := range reqs {
		if n := len(r.IDs) + opts.MaxNew; len(r.IDs) == 0 || n > cfg.MaxLength() {
			return nil, fmt.Errorf("%w: request %d: %d tokens and up to %d new ones, the model takes 1 to %d",
				ErrRequest, i, len(r.IDs), opts.MaxNew, cfg.MaxLength())
		}
		for _, id := range r.IDs {
			if id < 0 || id >= int64(cfg.Vocab) {
				return nil, fmt.Errorf("%w: request %d: token %d is not in the vocabulary of %d", ErrRequest, i, id, cfg.Vocab)
			}
		}
	}
	results := make([]Result, len(reqs))
	done := 0
	for _, g := range groups(reqs, opts, cfg.MaxLength()) {
		if err := g.decode(ctx, m, opts, reqs, results); err != nil {
			return nil, fmt.Errorf("decode: %w", err)
		}
		done += len(g.requests)
		if onProgress != nil {
			onProgress(done)
		}
	}
	return results, nil
}

// group are requests of one bucket that decode together.
type group struct {
	bucket   int
	requests []int // indices; at most Options.Slots
}

// groups puts requests of one bucket together, short ones first.
func groups(reqs []Request, opts Options, most int) []group {
	bucket := func(i int) int { return models.Bucket(len(reqs[i].IDs), opts.Bucket, most) }
	order := make([]int, len(reqs))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return bucket(a) - bucket(b) })
	var out []group
	for _, i := range order {
		last := len(out) - 1
		if last < 0 || out[last].bucket != bucket(i) || len(out[last].requests) == opts.Slots {
			out = append(out, group{bucket: bucket(i)})
			last++
		}
		out[last].requests = append(out[last].requests, i)
	}
	return out
}

// decode runs a group until all of its rows have ended, and fills in their results.
func (g group) decode(ctx context.Context, m *models.Model, opts Options, reqs []Request, results []Result) (err error) {
	prompts := make([]int64, opts.Slots*g.bucket)
	for i := range prompts {
		prompts[i] = opts.Pad
	}
	lens, seeds := make([]int, opts.Slots), make([]uint64, opts.Slots)
	for row := range lens {
		lens[row] = 1 // a row that nobody asked for: one pad token
		if row < len(g.requests) {
			r := reqs[g.requests[row]]
			lens[row], seeds[row] = len(r.IDs), r.Seed
			copy(prompts[row*g.bucket:], r.IDs)
		}
	}

	var cache *models.Cache
	defer func() {
		err = errors.Join(err, m.Engine().Do(context.WithoutCancel(ctx), func(*tensor.Scope) error {
			if cache != nil {
				cache.Free()
			}
			return nil
		}))
	}()
	next := make([]int64, opts.Slots)
	running := len(g.requests)
	for j := 0; j < opts.MaxNew && running > 0; j++ {
		err := m.Engine().Do(ctx, func(s *tensor.Scope) error {
			return s.NoGrad(func(s *tensor.Scope) error {
				var h *tensor.Tensor
				if j == 0 {
					cache = m.NewCache(s, lens, g.bucket, opts.MaxNew, opts.Bucket)
					h = cache.Prefill(s, prompts)
				} else {
					h = cache.Step(s, next)
				}
				next = sample(s, m.Logits(s, h), opts, seeds, j)
				return nil
			})
		})
		if err != nil {
			return err
		}
		for row := range next {
			if row >= len(g.requests) || results[g.requests[row]].Reason != "" {
				next[row] = opts.Pad
				continue
			}
			result := &results[g.requests[row]]
			result.IDs = append(result.IDs, next[row])
			switch {
			case slices.Contains(opts.Stop, next[row]):
				result.Reason = Stop
			case j == opts.MaxNew-1:
				result.Reason = Length
			default:
				continue
			}
			running--
		}
	}
	return nil
}
