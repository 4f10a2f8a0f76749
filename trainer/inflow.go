package trainer

import (
	"context"
	"fmt"
	"sync"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
)

// inflow takes the messages of an iteration from the log while they arrive, for training.schedule: streaming. One goroutine
// reads; close ends it and waits.
type inflow struct {
	stop context.CancelFunc
	done chan struct{} // closed when the reader has ended

	mu       sync.Mutex
	messages []events.Message // not taken yet, in the log's order
	last     uint64           // sequence of the newest message
	arrived  int              // messages so far, those that were taken included
	have     int              // pairs accounted for: messages and dead letters
	total    int              // pairs of the iteration; 0 until it is closed
	complete bool
	err      error
	news     chan struct{} // closed and replaced when one of the above changes
}

// follow begins to read an iteration.
func (t *Trainer) follow(ctx context.Context, kind schemas.Kind, i uint32) *inflow {
	ctx, stop := context.WithCancel(ctx)
	in := &inflow{stop: stop, done: make(chan struct{}), news: make(chan struct{})}
	go func() {
		defer close(in.done)
		err := t.Streams.Arrivals(ctx, kind, t.Spec.Run, i, func(a streams.Arrival) error {
			in.change(func() {
				in.have, in.total = a.Have, a.Total
				if a.Message != nil {
					in.messages, in.last, in.arrived = append(in.messages, a.Message), a.Seq, in.arrived+1
				}
			})
			return nil
		})
		in.change(func() { in.complete, in.err = err == nil, err })
	}()
	return in
}

func (in *inflow) change(f func()) {
	in.mu.Lock()
	defer in.mu.Unlock()
	f()
	close(in.news)
	in.news = make(chan struct{})
}

// supply is what an inflow has for the trainer.
type supply struct {
	messages []events.Message // in the log's order
	last     uint64           // sequence of the newest message so far
	total    int              // pairs that the iteration was closed with
	complete bool             // no more will come
}

// take waits until the iteration is closed and n messages have arrived in all, or it is complete, and gives those that were
// not taken before. waiting is called while there are fewer, with the pairs accounted for and their total; its error ends
// the wait.
func (in *inflow) take(ctx context.Context, n int, waiting func(have, total int) error) (supply, error) {
	for {
		in.mu.Lock()
		news, have, total := in.news, in.have, in.total
		ready := in.complete || in.err != nil || total > 0 && in.arrived >= n
		if ready {
			out, err := supply{in.messages, in.last, in.total, in.complete}, in.err
			in.messages = nil
			in.mu.Unlock()
			if err != nil && ctx.Err() == nil {
				err = fmt.Errorf("trainer: the iteration can no longer be followed: %w", err)
			}
			return out, err
		}
		in.mu.Unlock()
		if err := waiting(have, total); err != nil {
			return supply{}, err
		}
		select {
		case <-news:
		case <-ctx.Done():
			return supply{}, ctx.Err()
		}
	}
}

func (in *inflow) close() {
	if in != nil {
		in.stop()
		<-in.done
	}
}

// streaming tells whether an iteration is trained in the order of its log, while it arrives.
func (t *Trainer) streaming() bool { return t.Spec.Training.Schedule == "streaming" }

// stream makes a phase one of the streaming schedule.
func (t *Trainer) stream(ctx context.Context, in *intake, p *phase) (err error) {
	p.inOrder, p.open = true, in.inflow != nil
	if p.open {
		p.grow = func(ctx context.Context, does string, n int) (bool, error) { return t.grow(ctx, in, p, does, n) }
		return nil
	}
	feed, _ := Feed(t.Spec, in.kind)
	p.planned, err = t.planned(ctx, feed.Run, in.iteration)
	return err
}

// grow takes in what has arrived, once that makes n examples or the iteration is complete, which it returns. does says
// what the trainer does while it waits.
func (t *Trainer) grow(ctx context.Context, in *intake, p *phase, does string, n int) (complete bool, err error) {
	work := fmt.Sprintf("%s %s %d", does, in.kind, p.iteration)
	for {
		got, err := in.inflow.take(ctx, n+len(in.batches.Skipped), func(have, total int) error {
			t.Meter.Progress(work, have, total, "pairs")
			return p.saving.wait() // there is time, and if it fails there is nothing to wait for
		})
		if err != nil {
			return false, err
		}
		if err := t.add(ctx, got.messages, in); err != nil {
			return false, err
		}
		in.upTo = got.last
		p.batches.Pairs, p.batches.Skipped, p.planned = in.batches.Pairs, in.batches.Skipped, got.total
		switch {
		case got.complete:
			return true, t.whole(in)
		case len(in.batches.Pairs) >= n:
			return false, nil
		}
	}
}

// planned is the number of pairs that an iteration was closed with, those that became dead letters included.
func (t *Trainer) planned(ctx context.Context, run string, i uint32) (int, error) {
	total := 0
	err := t.Streams.Read(ctx, schemas.Control, run, int(i), 0, func(r streams.Received) error {
		if m, ok := r.Message.(*events.Control); ok && m.GetKind() == streams.ControlClosed {
			total = int(m.GetTotal())
		}
		return nil
	})
	return total, err
}
