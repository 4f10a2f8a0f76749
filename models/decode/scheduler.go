package decode

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/ldalign/ldalign/models/tensor"
)

var (
	// ErrQueueFull means that the queue already has Options.Queue requests.
	ErrQueueFull = errors.New("decode: the queue is full")
	// ErrClosed means that the scheduler takes no more requests, or was closed before the request ended.
	ErrClosed = errors.New("decode: the scheduler is closed")
)

// Scheduler decodes requests together. Its methods may be called from any goroutine.
type Scheduler struct {
	opts   Options
	engine *tensor.Engine
	woken  chan struct{}      // wakes the goroutine: there is something to do
	kill   context.CancelFunc // ends all rows
	done   chan struct{}      // closed when the goroutine has ended

	mu      sync.Mutex
	weights []*loaded // in memory, the current ones last
	queue   []*row    // submitted requests without a slot, the oldest first
	sources []*source // sources that have not ended, the oldest first
	closing bool

	// The fields below belong to the goroutine until done is closed.
	slots     []*row // by slot; nil if it is free
	admitted  int    // how many rows have got a slot
	unreserve func() // ends the engine's reservation; nil while there is none
	err       error  // of releasing weights
}

// New starts a scheduler with its first weights, which also determine its engine. The caller must Close it.
func New(opts Options, w Weights) (*Scheduler, error) {
	first, err := newLoaded(w, opts)
	if err != nil {
		return nil, err
	}
	ctx, kill := context.WithCancel(context.Background())
	s := &Scheduler{
		opts: opts, engine: w.Model.Engine(), woken: make(chan struct{}, 1), kill: kill, done: make(chan struct{}),
		weights: []*loaded{first}, slots: make([]*row, opts.Slots),
	}
	go s.run(ctx)
	return s, nil
}

// Submit queues a request for the next free slot, behind the requests that were submitted earlier. The current weights decode the
// response, even if they are swapped meanwhile. When ctx ends, the response ends before the next step with the reason Cancelled.
// The error wraps ErrRequest, ErrQueueFull or ErrClosed.
func (s *Scheduler) Submit(ctx context.Context, request Request) (*Reply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil, ErrClosed
	}
	w := s.current()
	if err := w.check(&request); err != nil {
		return nil, err
	}
	if len(s.queue) >= w.opts.Queue {
		return nil, fmt.Errorf("%w: %d requests wait for a slot", ErrQueueFull, len(s.queue))
	}
	reply := newReply(w.Digest)
	forget := context.AfterFunc(ctx, s.wake)
	w.users++
	s.queue = append(s.queue, &row{
		request: request, weights: w, cancelled: ctx.Err, serving: true, history: newHistory(request.Sampling, request.IDs),
		onToken: reply.push,
		onEnd: func(result Result) {
			forget()
			s.leave(w)
			reply.end(result)
		},
	})
	s.wake()
	return reply, nil
}

// current returns the weights for new requests. The caller holds mu.
func (s *Scheduler) current() *loaded { return s.weights[len(s.weights)-1] }

// leave notes that a request has ended that used the weights.
func (s *Scheduler) leave(w *loaded) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.users--
}

// Swap makes w the weights of all later requests. Earlier requests keep theirs. Old weights are released when their last
// request has ended. On an error nothing changes, and w still belongs to the caller. Once no request uses the previous weights, w
// may have the same model as they.
func (s *Scheduler) Swap(w Weights) error {
	next, err := newLoaded(w, s.opts)
	if err != nil {
		return err
	}
	if w.Model.Engine() != s.engine {
		return fmt.Errorf("%w: the model of %.12s is on another engine", ErrRequest, w.Digest)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return ErrClosed
	}
	s.weights = append(s.weights, next)
	s.wake()
	return nil
}

// Digest returns the digest of the current weights, or "" once the scheduler is closed.
func (s *Scheduler) Digest() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return ""
	}
	return s.current().Digest
}

// Close waits until all requests have ended, releases the weights, and returns the errors of that. No new requests are taken, and
// sources are not asked for more. If ctx ends first, the remaining responses end with ErrClosed after the step in progress.
func (s *Scheduler) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	s.wake()
	defer context.AfterFunc(ctx, s.kill)()
	<-s.done
	return s.err
}

func (s *Scheduler) wake() {
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

// run decodes until the scheduler is closed and all requests have ended. The end of ctx ends them early.
func (s *Scheduler) run(ctx context.Context) {
	defer close(s.done)
	defer s.kill()
	for more := true; more; {
		s.sweep(ctx)
		s.admit()
		more = s.retire(ctx)
		if slices.ContainsFunc(s.slots, func(r *row) bool { return r != nil }) {
			s.step(ctx)
			continue
		}
		s.reserve(false)
		if more {
			<-s.woken
		}
	}
}

// sweep ends the rows whose context has ended, and all rows if ctx has ended.
func (s *Scheduler) sweep(ctx context.Context) {
	stopped := func(r *row) error {
		if ctx.Err() != nil {
			return ErrClosed
		}
		return r.cancelled()
	}
	for _, r := range s.slots {
		if r == nil {
			continue
		}
		if err := stopped(r); err != nil {
			s.end(r, Cancelled, err)
		}
	}
	var ended []*row
	s.mu.Lock()
	s.queue = slices.DeleteFunc(s.queue, func(r *row) bool {
		if stopped(r) == nil {
			return false
		}
		ended = append(ended, r)
		return true
	})
	for _, f := range s.sources {
		if err := f.cancelled(); f.err == nil && err != nil {
			f.err = err
		} else if f.err == nil && !f.exhausted && s.closing {
			f.exhausted, f.cut = true, true
		}
	}
	s.mu.Unlock()
	for _, r := range ended {
		r.end(Cancelled, stopped(r))
	}
}

// admit gives free slots to waiting requests: first to submitted ones, then to those of sources.
func (s *Scheduler) admit() {
	for slot := range s.slots {
		if s.slots[slot] != nil {
			continue
		}
		r := s.next()
		if r == nil {
			return
		}
		r.slot, r.number = slot, s.admitted
		s.slots[slot] = r
		s.admitted++
	}
}

// next returns the row for the next free slot; nil if no request is waiting.
func (s *Scheduler) next() *row {
	s.mu.Lock()
	sources := slices.Clone(s.sources)
	if len(s.queue) > 0 {
		r := s.queue[0]
		s.queue = slices.Delete(s.queue, 0, 1)
		s.mu.Unlock()
		return r
	}
	s.mu.Unlock()
	for _, f := range sources { // without mu, because next may call Submit
		if r := f.take(); r != nil {
			return r
		}
	}
	return nil
}

// retire ends the sources that have no requests left, and releases the weights that nobody uses any more. It returns false when
// a closing scheduler has released all its weights.
func (s *Scheduler) retire(ctx context.Context) (more bool) {
	var unused []*loaded
	s.mu.Lock()
	s.sources = slices.DeleteFunc(s.sources, func(f *source) bool {
		if f.running > 0 || !f.exhausted && f.err == nil {
			return false
		}
		f.weights.users--
		close(f.ended)
		return true
	})
	current := s.current()
	s.weights = slices.DeleteFunc(s.weights, func(w *loaded) bool {
		if w.users > 0 || w == current && !s.closing {
			return false
		}
		unused = append(unused, w)
		return true
	})
	more = len(s.weights) > 0
	s.mu.Unlock()
	for _, w := range unused {
		s.reserve(false) // Release may wait in Do
		s.err = errors.Join(s.err, w.release(ctx))
	}
	return more
}

// step computes the next tokens of all rows.
func (s *Scheduler) step(ctx context.Context) {
	do := s.engine.Do
	if s.reserve(s.serving()) {
		do = s.engine.DoFirst
	}
	s.mu.Lock()
	weights := slices.Clone(s.weights)
	s.mu.Unlock()
	for _, w := range weights {
		for _, b := range w.batches(s.rows(w)) {
			drawn, err := w.compute(ctx, do, b)
			if ctx.Err() != nil {
				return // sweep ends the rows
			}
			if err != nil {
				s.fail(ctx, w, err)
				break
			}
			for i, r := range b.rows {
				if reason, err := r.take(drawn[i]); reason != "" {
					s.end(r, reason, err)
				}
			}
		}
	}
}

// rows returns the rows of weights, in the order of their slots.
func (s *Scheduler) rows(w *loaded) []*row {
	var rows []*row
	for _, r := range s.slots {
		if r != nil && r.weights == w {
			rows = append(rows, r)
		}
	}
	return rows
}

// fail ends all rows of weights whose step has failed, because their cache is in an unknown state. It also ends the sources that
// use these weights, because their next requests would fail too.
func (s *Scheduler) fail(ctx context.Context, w *loaded, err error) {
	s.mu.Lock()
	for _, f := range s.sources {
		if f.weights == w && f.err == nil {
			f.err = err
		}
	}
	s.mu.Unlock()
	for _, r := range s.rows(w) {
		s.end(r, Failed, err)
	}
	s.err = errors.Join(s.err, w.freeCache(ctx))
}

// end ends a row that has a slot.
func (s *Scheduler) end(r *row, reason string, err error) {
	s.slots[r.slot] = nil
	r.end(reason, err)
}

// serving reports whether a caller waits for any row.
func (s *Scheduler) serving() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue) > 0 || slices.ContainsFunc(s.slots, func(r *row) bool { return r != nil && r.serving })
}

// reserve reserves the engine for the scheduler's steps, or ends the reservation. It returns on.
func (s *Scheduler) reserve(on bool) bool {
	switch {
	case on && s.unreserve == nil:
		s.unreserve = s.engine.Reserve()
	case !on && s.unreserve != nil:
		s.unreserve()
		s.unreserve = nil
	}
	return on
}
