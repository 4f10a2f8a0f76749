package intake

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams/ledger"
)

// inflow reads the messages of an iteration from the log while they arrive, for training.schedule: streaming. One goroutine
// reads; close ends it and waits for it.
type inflow struct {
	stop context.CancelFunc
	done chan struct{} // closed when the reader has ended

	mu       sync.Mutex
	messages []events.Message // not taken yet, in the log's order
	last     uint64           // sequence of the newest message
	arrived  int              // messages so far, those that were taken included
	have     int              // pairs that have arrived or died: messages and dead letters
	total    int              // pairs of the iteration, which each message says; 0 until that is known
	complete bool
	err      error
	news     chan struct{} // closed and replaced when one of the above changes
}

// follow begins to read an iteration.
func (r *Reader) follow(ctx context.Context, kind schemas.Kind, i uint32) *inflow {
	ctx, stop := context.WithCancel(ctx)
	in := &inflow{stop: stop, done: make(chan struct{}), news: make(chan struct{})}
	go func() {
		defer close(in.done)
		err := ledger.Arrivals(ctx, r.Streams, kind, r.Spec.Run, i, func(a ledger.Arrival) error {
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

// totalOf is the number of pairs in the iteration of a message; 0 when the message does not say.
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

// quiet is the time without arrivals after which a wait counts as idle.
const quiet = time.Second

// take waits until the iteration's total is known and n messages have arrived in all, or the iteration is complete. It returns
// the messages that it has not returned before. While it waits it calls waiting, with the pairs that have arrived or died and
// the total, and idle whenever nothing has arrived for a time of quiet. Their errors end the wait.
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
				err = fmt.Errorf("trainer: reading the iteration while it arrives: %w", err)
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

// quietly waits for news, and calls idle after each time of quiet.
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

// counts returns how many pairs have arrived or died so far, and how many of them died.
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
