package decode

import (
	"context"
	"fmt"

	"github.com/ldalign/ldalign/models"
)

// source is a running Feed. Once it is registered, only the scheduler's goroutine touches it until ended is closed.
type source struct {
	next      func() (Request, bool, error)
	done      func(i int, r Result) error
	cancelled func() error
	weights   *loaded

	taken     int  // how many requests next has returned
	running   int  // how many of these have a slot
	exhausted bool // next is not called any more
	cut       bool // exhausted because the scheduler closes
	err       error
	ended     chan struct{}
}

// Feed decodes the requests of a source, in the slots that no submitted request is waiting for. The scheduler calls next when a
// slot is free; next returns a request, or false when there are no more. The scheduler calls done with the result of request i as
// soon as it has ended; i counts the requests from 0 in the order of next. All are decoded by the weights that are current when
// Feed is called. A request that cannot be decoded gives a result with the Reason Failed, and the others continue.
//
// Feed returns when the source has no more requests and all of them have ended. When ctx ends, next or done returns an error, or
// a step fails, Feed returns that error between two steps. Requests that have not ended then are lost; decoding them again gives
// the same responses. next and done run on the scheduler's goroutine, as Request.OnToken does. If one panics, Feed returns an
// error.
func (s *Scheduler) Feed(
	ctx context.Context, next func() (Request, bool, error), done func(i int, r Result) error,
) error {
	f := &source{next: next, done: done, ended: make(chan struct{})}
	f.cancelled = func() error {
		if f.err != nil {
			return f.err
		}
		return ctx.Err()
	}
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return ErrClosed
	}
	f.weights = s.current()
	f.weights.users++
	s.sources = append(s.sources, f)
	s.mu.Unlock()
	s.wake()
	defer context.AfterFunc(ctx, s.wake)()
	<-f.ended
	if f.err == nil && f.cut {
		return ErrClosed
	}
	return f.err
}

// take asks the source for a request and returns its row; nil if there is none.
func (f *source) take() *row {
	for !f.exhausted && f.err == nil {
		var request Request
		var ok bool
		if err := guard("next", func() { request, ok, f.err = f.next() }); err != nil {
			f.err = err
		}
		if f.exhausted = !ok; f.err != nil || !ok {
			break
		}
		i := f.taken
		f.taken++
		r := &row{request: request, weights: f.weights, cancelled: f.cancelled, history: newHistory(request.Sampling, request.IDs)}
		r.onEnd = func(result Result) {
			f.running--
			f.deliver(i, result)
		}
		if err := f.weights.check(&request); err != nil {
			f.deliver(i, Result{Reason: Failed, Err: err, Digest: f.weights.Digest})
			continue
		}
		f.running++
		return r
	}
	return nil
}

// deliver passes a result to the source, unless the source itself has ended with an error.
func (f *source) deliver(i int, result Result) {
	if f.err != nil || result.Reason == Cancelled {
		return
	}
	if err := guard("done", func() { f.err = f.done(i, result) }); err != nil {
		f.err = err
	}
}

// Generate decodes requests with a scheduler of its own, and returns their results in the same order. It calls onProgress, if not
// nil, with the number of requests that are done. The first request that fails ends all of them with its error.
func Generate(
	ctx context.Context, m *models.Model, requests []Request, opts Options, onProgress func(done int),
) ([]Result, error) {
	longest := 1
	for _, r := range requests {
		longest = max(longest, len(r.IDs)+r.MaxNew)
	}
	if opts.Length == 0 && longest <= m.Config().MaxLength() { // Feed reports a longer request by its number
		opts.Length = longest
	}
	if m.Packed() { // the last bits of another model depend on the number of slots
		opts.Slots = min(opts.Slots, max(1, len(requests)))
	}
	s, err := New(opts, Weights{Model: m})
	if err != nil {
		return nil, err
	}
	results, taken, done := make([]Result, len(requests)), 0, 0
	err = s.Feed(ctx,
		func() (Request, bool, error) {
			if taken == len(requests) {
				return Request{}, false, nil
			}
			taken++
			return requests[taken-1], true, nil
		},
		func(i int, r Result) error {
			if r.Err != nil {
				return fmt.Errorf("request %d: %w", i, r.Err)
			}
			results[i] = r
			done++
			if onProgress != nil {
				onProgress(done)
			}
			return nil
		})
	if closing := s.Close(ctx); err == nil {
		err = closing
	}
	if err != nil {
		return nil, err
	}
	return results, nil
}
