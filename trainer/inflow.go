package trainer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/ledger"
	"github.com/ldalign/ldalign/trainer/activity"
	"github.com/ldalign/ldalign/trainer/lineage"
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
	total    int              // pairs of the iteration, which each message tells; 0 until that is known
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
		err := ledger.Arrivals(ctx, t.Streams, kind, t.Spec.Run, i, func(a ledger.Arrival) error {
			in.change(func() {
				in.have, in.total = a.Have, cmp.Or(a.Total, in.total)
				if a.Message != nil {
					in.total = cmp.Or(in.total, totalOf(a.Message))
					in.messages, in.last, in.arrived = append(in.messages, a.Message), a.Seq, in.arrived+1
				}
			})
			return nil
		})
		in.change(func() { in.complete, in.err = err == nil, err })
	}()
	return in
}

// totalOf is the number of pairs that the iteration of a message has; 0 when the message does not tell.
func totalOf(m events.Message) int {
	if p, is := m.(*events.Prompt); is {
		return int(p.GetTotal())
	}
	return int(pairOf(m).GetPrompt().GetTotal())
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
	total    int              // pairs of the iteration, those that died included
	complete bool             // no more will come
}

// quiet is how long nothing may arrive until a wait is called idle.
const quiet = time.Second

// take waits until the iteration's total is known and n messages have arrived in all, or it is complete, and gives those
// that were not taken before. waiting is called while there are fewer, with the pairs accounted for and their total, and idle
// when nothing arrives for long; their errors end the wait.
func (in *inflow) take(
	ctx context.Context, n int, waiting func(have, total int) error, idle func() error,
) (supply, error) {
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
		if err := quietly(ctx, news, idle); err != nil {
			return supply{}, err
		}
	}
}

// quietly waits for news, and calls idle whenever there are none for long.
func quietly(ctx context.Context, news <-chan struct{}, idle func() error) error {
	tick := time.NewTicker(quiet)
	defer tick.Stop()
	for {
		select {
		case <-news:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			if err := idle(); err != nil {
				return err
			}
		}
	}
}

// counts are the pairs that are accounted for so far, and how many of them are dead.
func (in *inflow) counts() (have, dead int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.have, in.have - in.arrived
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
		p.grow = func(ctx context.Context, n, trained int, readBack bool) (bool, error) {
			return t.grow(ctx, in, p, n, trained, readBack)
		}
		return nil
	}
	feed, _ := lineage.Feed(t.Spec, in.kind)
	p.planned, err = t.planned(ctx, feed.Run, in.iteration)
	return err
}

// grow takes in what has arrived, once that makes n examples or the iteration is complete, which it returns. trained is how
// many are trained already. readBack says that the log has had the examples for long.
func (t *Trainer) grow(ctx context.Context, in *intake, p *phase, n, trained int, readBack bool) (complete bool, err error) {
	show := func(have, total int) {
		work := t.work(p.name, p.iteration, have, total)
		if readBack {
			t.Meter.Observe(activity.Reading{Work: work, Kind: in.kind})
			return
		}
		t.Meter.Observe(activity.Waiting{Work: work, Kind: in.kind})
	}
	if err := t.tell(ctx, in, trained, busy); err != nil {
		return false, err
	}
	for {
		got, err := in.inflow.take(ctx, n+len(in.batches.Skipped), func(have, total int) error {
			show(have, total)
			if err := t.tell(ctx, in, trained, waiting); err != nil {
				return err
			}
			return p.saving.wait() // there is time, and if it fails there is nothing to wait for
		}, func() error { return t.tell(ctx, in, trained, idle) })
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
			// the prompts are all published, and whoever gets that work once more need not wait
			return true, errors.Join(t.Streams.TrainerProgress(ctx, t.Spec.Run, in.iteration, got.total), t.whole(in))
		case len(in.batches.Pairs) >= n:
			return false, nil
		}
	}
}

// What a trainer does that tells how much it has taken.
const (
	busy    = iota // it trains
	waiting        // for more pairs
	idle           // it waits, and nothing arrives
)

// tell says on the log how many pairs of an iteration that still arrives are taken, by which the prompter goes on; trained is
// how many are trained. It does not say each: an eighth of what may be ahead is told, and any number when everything has come
// that the prompter may publish by what it was told before. A prompter may have another bound, for streams.max_in_flight can be
// changed between two starts: so any number is told when nothing arrives. A number is told again by a trainer that goes on,
// which does no harm.
func (t *Trainer) tell(ctx context.Context, in *intake, trained, does int) error {
	ahead := t.Spec.MaxInFlight(in.iteration)
	have, dead := in.inflow.counts()
	taken := trained + dead + len(in.batches.Skipped)
	due := does == idle || ahead > 0 && (taken >= in.told+ahead/8 || does == waiting && have >= in.told+ahead)
	if !due || taken <= in.told {
		return nil
	}
	in.told = taken
	return t.Streams.TrainerProgress(ctx, t.Spec.Run, in.iteration, taken)
}

// planned is the number of pairs that an iteration was closed with, those that became dead letters included.
func (t *Trainer) planned(ctx context.Context, run string, i uint32) (int, error) {
	total := 0
	err := t.Streams.Read(ctx, schemas.Control, run, int(i), 0, func(r streams.Received) error {
		if m, ok := r.Message.(*events.Control); ok && m.GetKind() == events.ControlClosed {
			total = int(m.GetTotal())
		}
		return nil
	})
	return total, err
}
