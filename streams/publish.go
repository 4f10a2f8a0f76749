package streams

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

var (
	// ErrTooLarge: a message is larger than MaxMessage.
	ErrTooLarge = errors.New("streams: message too large")
	// ErrFull: a stream has reached its MaxBytes, or the server its storage limit.
	ErrFull = errors.New("streams: stream full")
	// ErrStore: the server cannot write to its store, as on a full disk.
	ErrStore = errors.New("streams: the server's store has failed")
)

const (
	// window is how many messages are sent before their answers are awaited.
	window = 256
	// maxPending bounds the unanswered messages of a connection.
	maxPending = 16 * window
	// ackTimeout is how long one message may wait to be stored before it is sent again.
	ackTimeout = 10 * time.Second
	// stallWait is how long a message may wait when maxPending messages are unanswered.
	stallWait = 10 * time.Second
	// patience is after how many unanswered publishes in a row the reason is looked for.
	patience = 5
)

// Publish stores messages on the stream of their kind and returns when all are stored. Each is stored once under its id, so
// publishing it again is harmless. While the connection is lost, a cluster elects a leader, or a server is away, Publish sends
// the unanswered messages again until ctx ends. The messages are stored in the given order unless that happened in between.
//
// Publish returns an error before it sends anything when a message is too large (ErrTooLarge) or does not belong to the kind. It
// returns ErrFull when the stream is full, and ErrStore when the server cannot store.
func (c *Conn) Publish(ctx context.Context, kind schemas.Kind, msgs ...events.Message) error {
	sealed := make([]*nats.Msg, len(msgs))
	for i, m := range msgs {
		var err error
		if sealed[i], err = seal(kind, m); err != nil {
			return fmt.Errorf("streams: publish: %w", err)
		}
	}
	return c.send(ctx, kind, sealed)
}

// send stores sealed messages of one kind.
func (c *Conn) send(ctx context.Context, kind schemas.Kind, msgs []*nats.Msg) error {
	for len(msgs) > 0 { // one window at a time, each of one run
		run, n := runOf(msgs[0]), 1
		for n < min(len(msgs), window) && runOf(msgs[n]) == run {
			n++
		}
		if err := c.sendWindow(ctx, StreamName(kind, run), msgs[:n]); err != nil {
			return fmt.Errorf("streams: publish to %s: %w", StreamName(kind, run), err)
		}
		msgs = msgs[n:]
	}
	return nil
}

// runOf returns the run in a message's subject.
func runOf(m *nats.Msg) string {
	if tokens := strings.Split(m.Subject, "."); len(tokens) > 2 {
		return tokens[2]
	}
	return ""
}

// inProcessPause is the pause before a message is sent again that another publisher is storing.
const inProcessPause = 20 * time.Millisecond

// sendWindow sends messages until all are stored. It repeats those that may not be stored.
func (c *Conn) sendWindow(ctx context.Context, stream string, msgs []*nats.Msg) error {
	o := outage{conn: c, what: "publish to " + stream}
	defer o.over()
	silence := silence{conn: c, stream: stream}
	for try := 1; ; try++ {
		var unsure []*nats.Msg
		err := c.permitted(ctx, func(ctx context.Context) (err error) {
			unsure, err = c.sendOnce(ctx, stream, msgs)
			return err
		})
		if len(unsure) == 0 {
			return nil
		}
		wait := inProcessPause
		switch meaningOf(err) {
		case inProcess:
		case passing:
			if broken := c.storeError(); broken != nil {
				return broken
			}
			if err := silence.judge(ctx, err, msgs[0]); err != nil {
				return err
			}
			if ctx.Err() == nil {
				o.failed(err)
			}
			wait = c.askPause(try)
		case permanent, conflict:
			return explain(err)
		}
		if !pause(ctx, wait) {
			return fmt.Errorf("%w; %d messages may not be stored, last: %w", ctx.Err(), len(unsure), err)
		}
		msgs = unsure
	}
}

// silence tells a stream without a leader, which gets one after an election or when a server returns, from a server that answers
// requests and stores nothing.
type silence struct {
	conn   *Conn
	stream string
	// tries is the number of publishes in a row that had no answer. leader answered for the stream after the last of them.
	tries  int
	leader string
}

// judge is called after each failed publish. It returns an error when waiting does not help.
func (s *silence) judge(ctx context.Context, err error, m *nats.Msg) error {
	if !errors.Is(err, jetstream.ErrNoStreamResponse) && !errors.Is(err, jetstream.ErrAsyncPublishTimeout) {
		s.tries, s.leader = 0, ""
		return nil
	}
	if s.tries++; s.tries < patience || !s.conn.nc.IsConnected() {
		return nil
	}
	before := s.leader
	s.leader = ""
	asking, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	found, missing := s.conn.js.Stream(asking, s.stream)
	switch {
	case errors.Is(missing, jetstream.ErrStreamNotFound):
		return noRun(runOf(m))
	case missing == nil:
		s.leader = "the server"
		if info := found.CachedInfo().Cluster; info != nil {
			s.leader = info.Leader
		}
		if s.leader != before {
			return nil
		}
	case !errors.Is(missing, jetstream.ErrJetStreamNotEnabled) && !errors.Is(missing, nats.ErrNoResponders):
		return nil
	}
	return fmt.Errorf("%w: the server does not answer on %s; its log may say why: %w", ErrStore, m.Subject, err)
}

// sendOnce sends all messages and waits for their answers. It returns the messages that may not be stored, with an error: one
// that is not passing if there is one.
func (c *Conn) sendOnce(ctx context.Context, stream string, msgs []*nats.Msg) ([]*nats.Msg, error) {
	var unsure []*nats.Msg
	var failure error
	fail := func(m *nats.Msg, err error) {
		unsure = append(unsure, m)
		if failure == nil || meaningOf(failure) != permanent {
			failure = err
		}
	}
	acks := make([]jetstream.PubAckFuture, 0, len(msgs))
	for _, m := range msgs {
		ack, err := c.js.PublishMsgAsync(m, jetstream.WithExpectStream(stream),
			jetstream.WithStallWait(stallWait), jetstream.WithRetryAttempts(0))
		if err != nil {
			fail(m, err)
			continue
		}
		acks = append(acks, ack)
	}
	for _, ack := range acks {
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			fail(ack.Msg(), err)
		case <-c.broken():
			fail(ack.Msg(), jetstream.ErrAsyncPublishTimeout)
		case <-ctx.Done():
			fail(ack.Msg(), ctx.Err())
		}
	}
	return unsure, failure
}

// broken returns a channel that is closed when the embedded server's store has failed; the server then answers nothing.
func (c *Conn) broken() <-chan struct{} {
	if c.server == nil {
		return nil
	}
	return c.server.log.broken
}
