package streams

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// Find returns the first message of a kind in a run with the given id, or ErrNotFound. It reads the run's messages of that kind
// up to it, so use it for kinds with few messages (checkpoints, results, control).
func (c *Conn) Find(ctx context.Context, kind schemas.Kind, run, id string) (Received, error) {
	found, _, err := c.first(ctx, Part{Kind: kind, Run: run, Iteration: AllIterations}, id)
	return found, err
}

// first is Find in a part of a log. It also returns the position of the last message that it has read.
func (c *Conn) first(ctx context.Context, p Part, id string) (found Received, last uint64, err error) {
	err = c.Scan(ctx, p, func(e Entry) error {
		last = e.Seq
		m, err := e.Open()
		switch {
		case err == nil && m.ID() == id:
			found = e.Received(m)
			return ErrStop
		case err != nil && e.ID() == id:
			return fmt.Errorf("streams: %s at %d: %w", e.Stream, e.Seq, err)
		case err != nil:
			return c.PassOver(e, err)
		}
		return nil
	})
	if err == nil && found.Message == nil {
		err = fmt.Errorf("%w: no %s %q in run %s", ErrNotFound, p.Kind, id, p.Run)
	}
	return found, last, err
}

// PublishFirst stores a message unless the log already has one with its id, and returns the one that the log has. So of several
// processes that publish different messages with one id, at whatever time, one succeeds, and all of them get its message.
func (c *Conn) PublishFirst(ctx context.Context, kind schemas.Kind, m events.Message) (Received, error) {
	failed := func(err error) (Received, error) {
		return Received{}, fmt.Errorf("streams: publish %s of run %s: %w", m.ID(), m.GetRun(), err)
	}
	for try := 1; ; try++ {
		subject := Part{Kind: kind, Run: m.GetRun(), Iteration: int(m.GetIteration())}
		found, last, err := c.first(ctx, subject, m.ID())
		if !errors.Is(err, ErrNotFound) {
			return found, err
		}
		msg, err := seal(kind, m)
		if err != nil {
			return failed(err)
		}
		msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(last, 10))
		if err := c.send(ctx, kind, []*nats.Msg{msg}); err != nil && meaningOf(err) != conflict {
			return failed(err)
		}
		// Read it back: the server also accepts a message whose id it remembers.
		if try > 1 && !pause(ctx, c.limits.backoff(try)) {
			return failed(ctx.Err())
		}
	}
}
