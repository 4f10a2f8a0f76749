// Package decode samples responses from a model by continuous batching: rows decode together, each in a slot of one
// preallocated cache, and as soon as one has ended its slot goes to the next request.
//
// The text of a request is a function of the model, the request and the sampling options: never of the other requests,
// of their number or order, of the slots, or of the machine's other work. Two things see to it. What the model computes
// for a token depends on the token's own row alone (models.Cache). And the random number behind a token is a function of
// the request's seed and the token's number (models.Uniform).
package decode

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/tensor"
)

var (
	// ErrRequest means a request or options that cannot be decoded.
	ErrRequest = errors.New("decode: invalid request")
	// ErrNotFinite means that the model gave scores that are NaN or infinite: its weights are damaged, or too large for
	// the type that it computes in.
	ErrNotFinite = errors.New("decode: the model's scores are not finite")
)

// Request is one prompt.
type Request struct {
	IDs  []int64
	Seed uint64 // of all its random numbers
	// MaxNew bounds this response; 0 is Options.MaxNew.
	MaxNew int
	// OnToken, if not nil, is told each token as it is sampled; true ends the response there. It is called on the
	// goroutine of Run, between steps.
	OnToken func(id int64, logprob float32) (stop bool)
}

// Reasons why a response ended.
const (
	Stop   = "stop"   // an end token was sampled, or OnToken said so
	Length = "length" // MaxNew tokens were sampled
)

// Result is one response.
type Result struct {
	// IDs are the sampled tokens, the end token included, so that a model can be trained on where to stop.
	IDs []int64
	// LogProbs are log p(token | all before) of each, by the model itself: without temperature, penalty or truncation.
	LogProbs []float32
	Reason   string // Stop or Length
}

// Options say how to decode. With a packed model Slots, Length and Prefill decide speed and memory only, never a text;
// with another one Slots and Prefill decide the last bit.
type Options struct {
	MaxNew            int     // tokens of a response at most, at least 1
	Temperature       float64 // divides the logits; 0 takes the most probable token
	TopK              int     // samples among the k most probable tokens; 0 takes all
	TopP              float64 // samples among the most probable tokens that together reach this probability; 1 takes all
	MinP              float64 // samples among tokens with this share of the greatest probability; 0 takes all
	RepetitionPenalty float64 // above 1 makes tokens of the prompt and the response less probable; 0 and 1 are none
	Stop              []int64 // end tokens
	Slots             int     // rows that decode together, at least 1
	Length            int     // tokens of a prompt and its response; 0 is the model's limit (Run), or what is needed (Generate)
	Prefill           int     // prompt tokens of one step at most; 0 is 256
}

func (o Options) sampling() tensor.Sampling {
	s := tensor.Sampling{
		Temperature: o.Temperature, TopK: o.TopK, TopP: o.TopP, MinP: o.MinP, RepetitionPenalty: o.RepetitionPenalty,
	}
	if s.RepetitionPenalty == 0 {
		s.RepetitionPenalty = 1
	}
	return s
}

// withDefaults fills in what is 0 and checks the rest.
func (o Options) withDefaults(cfg architecture.Config) (Options, error) {
	if o.Prefill == 0 {
		o.Prefill = 256
	}
	if o.Length == 0 {
		o.Length = cfg.MaxLength()
	}
	if o.MaxNew < 1 || o.Slots < 1 || o.Prefill < 1 || o.Length < 1 {
		return o, fmt.Errorf("%w: MaxNew %d, Slots %d, Prefill %d and Length %d must be at least 1",
			ErrRequest, o.MaxNew, o.Slots, o.Prefill, o.Length)
	}
	if o.Length > cfg.MaxLength() {
		return o, fmt.Errorf("%w: Length is %d, the model takes %d tokens", ErrRequest, o.Length, cfg.MaxLength())
	}
	if err := o.sampling().Validate(); err != nil {
		return o, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	return o, nil
}

// cache is the size of the cache that the options ask for.
func (o Options) cache() architecture.CacheSize {
	return architecture.CacheSize{Slots: o.Slots, Length: o.Length, Burst: min(o.Prefill, o.Length)}
}

// CacheBytes is the memory of the keys and values that decoding with these options holds.
func (o Options) CacheBytes(m *models.Model) int64 {
	if o.Prefill == 0 {
		o.Prefill = 256
	}
	if o.Length == 0 {
		o.Length = m.Config().MaxLength()
	}
	return m.CacheBytes(o.cache())
}

// SlotsFor is the greatest number of slots, up to most, whose cache fits the memory budget in bytes; at least 1.
func (o Options) SlotsFor(m *models.Model, budget int64, most int) int {
	o.Slots = 1
	one := o.CacheBytes(m)
	o.Slots = 2
	each := o.CacheBytes(m) - one
	return max(1, min(most, 1+int((budget-one)/max(each, 1))))
}

// Generate decodes all requests and returns their results in the same order. onProgress, if not nil, is told how many
// requests are done. Otherwise it is as Run.
func Generate(
	ctx context.Context, m *models.Model, reqs []Request, opts Options, onProgress func(done int),
) ([]Result, error) {
	longest := 0
	for _, r := range reqs {
		longest = max(longest, len(r.IDs)+opts.limit(r))
	}
	if opts.Length == 0 && longest <= m.Config().MaxLength() { // Run tells of a longer one by its number
		opts.Length = longest
	}
	if m.Packed() { // another model's last bit depends on the slots
		opts.Slots = min(opts.Slots, max(1, len(reqs)))
	}
	results, taken, done := make([]Result, len(reqs)), 0, 0
	err := Run(ctx, m, opts,
		func() (Request, bool, error) {
			if taken == len(reqs) {
				return Request{}, false, nil
			}
			taken++
			return reqs[taken-1], true, nil
		},
		func(i int, r Result) error {
			results[i] = r
			done++
			if onProgress != nil {
				onProgress(done)
			}
			return nil
		})
	if err != nil {
		return nil, err
	}
	return results, nil
}

// limit is how many tokens a response may have.
func (o Options) limit(r Request) int {
	if r.MaxNew > 0 {
		return r.MaxNew
	}
	return o.MaxNew
}

// Run decodes requests as slots get free: next gives the next one, or false when there are no more (it may be asked
// again, and must keep to it), and done gets the result of request i, counted from 0 in the order of next, as soon as it
// has ended. A prompt and its MaxNew together must fit Options.Length. A call of Engine.Do is one step of all rows, so
// others can use the engine in between and ctx ends the work soon; then the error is ctx's, and rows that have not ended
// are lost: they come out the same when they are asked for again. An error of next or done ends the work too.
func Run(
	ctx context.Context, m *models.Model, opts Options, next func() (Request, bool, error), done func(i int, r Result) error,
) (err error) {
	opts, err = opts.withDefaults(m.Config())
	if err != nil {
		return err
	}
	d := &decoder{model: m, opts: opts, slots: make([]*row, opts.Slots)}
	defer func() {
		err = errors.Join(err, m.Engine().Do(context.WithoutCancel(ctx), func(*tensor.Scope) error {
			if d.cache != nil {
				d.cache.Free()
			}
			return nil
		}))
	}()
	taken, more := 0, true
	for {
		for slot := range d.slots {
			if d.slots[slot] != nil || !more {
				continue
			}
			var req Request
			if req, more, err = next(); err != nil {
				return err
			}
			if !more {
				break
			}
			if err := d.check(taken, req); err != nil {
				return err
			}
			d.slots[slot] = newRow(taken, slot, req, opts)
			taken++
		}
		if !slices.ContainsFunc(d.slots, func(r *row) bool { return r != nil }) {
			return nil
		}
		if err := d.step(ctx, done); err != nil {
			return fmt.Errorf("decode: %w", err)
		}
	}
}

func (d *decoder) check(i int, r Request) error {
	most, limit := d.opts.Length, d.opts.limit(r)
	if n := len(r.IDs) + limit; len(r.IDs) == 0 || n > most {
		return fmt.Errorf("%w: request %d: %d tokens and up to %d new ones, there is room for 1 to %d",
			ErrRequest, i, len(r.IDs), limit, most)
	}
	vocab := d.model.Config().Vocab
	for _, id := range r.IDs {
		if id < 0 || id >= int64(vocab) {
			return fmt.Errorf("%w: request %d: token %d is not in the vocabulary of %d", ErrRequest, i, id, vocab)
		}
	}
	return nil
}
