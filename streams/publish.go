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
	// patience is how many times in a row a connected server may leave a publish unanswered.
	patience = 5
)

// Error codes of the server that nats.go does not name.
const (
	codeResources   jetstream.ErrorCode = 10023 // insufficient resources
	codeStorage     jetstream.ErrorCode = 10047 // insufficient storage resources
	codeStoreFailed jetstream.ErrorCode = 10077 // the store's own text follows
	codeWrongLast   jetstream.ErrorCode = 10164 // wrong last sequence, on a stream with replicas
)

// Publish stores messages on the stream of their kind and returns when all are stored. Each is stored once under its id, so
// publishing it again is harmless. When the connection is lost, Publish sends the unanswered messages again until ctx ends. The
// messages are stored in the given order unless the connection was lost in between.
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

// sendWindow sends messages until all are stored. It repeats those that may not be stored.
func (c *Conn) sendWindow(ctx context.Context, stream string, msgs []*nats.Msg) error {
	unanswered := 0
	for try := 1; ; try++ {
		unsure, err := c.sendOnce(ctx, stream, msgs)
		if len(unsure) == 0 || !passing(err) {
			return explain(err)
		}
		if c.server != nil {
			if broken := c.server.healthy(); broken != nil {
				return broken
			}
		}
		switch {
		case errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, jetstream.ErrAsyncPublishTimeout):
			if unanswered++; unanswered == patience && c.nc.IsConnected() {
				if _, missing := c.js.Stream(ctx, stream); errors.Is(missing, jetstream.ErrStreamNotFound) {
					return noRun(runOf(msgs[0]))
				}
				return fmt.Errorf("%w: the server does not answer on %s; its log may say why: %w", ErrStore, msgs[0].Subject, err)
			}
		default:
			unanswered = 0
		}
		c.log.Warn().Err(err).Str("stream", stream).Int("messages", len(unsure)).Msg("publishing again")
		if !pause(ctx, c.limits.backoff(try)) {
			return fmt.Errorf("%w; %d messages may not be stored, last: %w", ctx.Err(), len(unsure), err)
		}
		msgs = unsure
	}
}

// sendOnce sends all messages and waits for their answers. It returns the messages that may not be stored, with an error: one
// that is not passing if there is one.
func (c *Conn) sendOnce(ctx context.Context, stream string, msgs []*nats.Msg) ([]*nats.Msg, error) {
	var unsure []*nats.Msg
	var failure error
	fail := func(m *nats.Msg, err error) {
		unsure = append(unsure, m)
		if failure == nil || passing(failure) {
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

// passing reports whether a publish that failed with err may succeed when it is repeated.
func passing(err error) bool {
	for _, target := range []error{
		nats.ErrDisconnected, nats.ErrConnectionReconnecting, nats.ErrReconnectBufExceeded, nats.ErrTimeout,
		jetstream.ErrAsyncPublishTimeout, jetstream.ErrTooManyStalledMsgs, jetstream.ErrNoStreamResponse,
	} {
		if errors.Is(err, target) {
			return true
		}
	}
	var api *jetstream.APIError
	return errors.As(err, &api) && api.Code == 503 &&
		api.ErrorCode != codeStoreFailed && api.ErrorCode != codeResources && api.ErrorCode != codeStorage
}

// explain adds to a permanent error what it means and what to do.
func explain(err error) error {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return err
	}
	switch api.ErrorCode {
	case codeResources, codeStorage:
		return fmt.Errorf("%w: raise the server's storage limit: %w", ErrFull, err)
	case codeStoreFailed:
		if strings.Contains(api.Description, "maximum bytes") {
			return fmt.Errorf("%w: raise streams.max_bytes and start again: %w", ErrFull, err)
		}
		return fmt.Errorf("%w: %w", ErrStore, err)
	}
	return err
}
