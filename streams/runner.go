package streams

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/schemas/events"
)

// RunStage runs a stage until ctx ends. It pulls at most one batch at a time, keeps the server from redelivering it while
// Process works on it, publishes the outputs, waits until they are stored, and only then acknowledges the inputs. When ctx
// ends, RunStage finishes the batch within Stage.Grace or gives it back, and returns nil. When Process makes no progress for
// Limits.StuckAfter, the server delivers the batch to another worker; what Process returns later is stored under the same ids.
//
// When the server is lost, RunStage waits for it to return; it recreates a deleted consumer. When a whole batch fails, by a
// panic or by an error for every message, RunStage processes the messages again one by one to find the one at fault. Messages
// that cannot be decoded become dead letters without being processed. Messages that only a newer program can read are left to
// other workers, however often they come back.
//
// RunStage returns an error for an invalid stage, for a stream that does not exist (ErrNotFound), when the server refuses to
// store outputs (ErrFull, ErrStore), and for a permanent *schemas.Unavailable. It then gives the inputs back.
func (c *Conn) RunStage(ctx context.Context, s Stage, process Process) error {
	return c.RunRefilling(ctx, s, func(ctx context.Context, in []events.Message, _ func(int) []events.Message) []Outcome {
		return process(ctx, in)
	})
}

// RunRefilling is RunStage for a stage that takes more messages while it works.
func (c *Conn) RunRefilling(ctx context.Context, s Stage, process Refilling) error {
	s, err := s.withDefaults()
	if err != nil {
		return err
	}
	r := &runner{
		Conn: c, stage: s, process: process, failures: map[place]int{}, ending: ctx.Done(),
		log: c.log.With().Str("stage", s.Name).Str("run", s.Run).Logger(),
	}
	if r.heartbeat = s.Heartbeat; r.heartbeat == nil {
		r.heartbeat = c.Announce(ctx, s.Run, s.Name)
		defer r.heartbeat.Close()
	}
	if err := r.ensureConsumers(ctx); err != nil {
		return ended(ctx, err)
	}
	work, cancel := outlive(ctx, s.Grace)
	defer cancel()
	pulling, cancelPull := outlive(ctx, 0) // without ctx's deadline: nats.go refuses to pull shortly before one
	defer cancelPull()
	for r.heartbeat.Hold(ctx) == nil && !over(ctx) {
		b := newBatch(c.limits.AckWait/3, r.watch(c.limits.AckWait/3))
		err = r.fill(pulling, b)
		// If the stage was paused while it waited, release gives back what it got.
		if _, paused := r.heartbeat.Paused(); err == nil && !paused && !over(ctx) {
			r.heartbeat.Say(StateWorking, fmt.Sprintf("on %d %s", len(b.inputs), s.In))
			err = r.settle(work, b)
		}
		b.release()
		if err != nil {
			break
		}
	}
	err = ended(ctx, err)
	if c.nc.IsConnected() {
		err = errors.Join(err, c.flush())
	}
	return err
}

// runner is the state of one RunStage. Only its goroutine touches it.
type runner struct {
	*Conn
	stage   Stage
	process Refilling
	// consumer reads the run's own log. source reads the log of a replay's source; it is nil for other stages.
	consumer, source jetstream.Consumer
	// failures counts, by position, how often a message failed in this process. An entry is removed when this process settles
	// the message; when another process settles it, the entry stays until the stage ends.
	failures  map[place]int
	heartbeat *Heartbeat
	// newer says that the last messages that this stage got were too new for it; empty otherwise.
	newer string
	// ending is closed when RunStage's context ends.
	ending <-chan struct{}
	log    zerolog.Logger
}

// place is a position in one of the logs that a stage reads.
type place struct {
	stream string
	seq    uint64
}

// over reports that ctx has ended.
func over(ctx context.Context) bool { return ctx.Err() != nil }

// ended turns err into nil when it only says that ctx has ended.
func ended(ctx context.Context, err error) error {
	if over(ctx) && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		return nil
	}
	return err
}

// outlive returns a context that ends the duration grace after ctx has ended.
func outlive(ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		if pause(work, grace) {
			cancel()
		}
	})
	return work, func() {
		stop()
		cancel()
	}
}
