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
	// ErrTooLarge: a message is over MaxMessage.
	ErrTooLarge = errors.New("streams: message too large")
	// ErrFull: a stream has reached its MaxBytes, or the server its storage limit.
	ErrFull = errors.New("streams: stream full")
	// ErrStore: the server's store does not write, as on a full disk.
	ErrStore = errors.New("streams: the server's store has failed")
)

const (
	// window is how many messages are under way at once.
	window = 256
	// maxPending bounds all windows of one connection together.
	maxPending = 16 * window
	// ackTimeout is how long one message may wait to be stored before it is sent again.
	ackTimeout = 10 * time.Second
	// stallWait is how long a message may wait for room among maxPending.
	stallWait = 10 * time.Second
	// patience is how many times in a row a connected server may leave a publish unanswered.
	patience = 5
)

// Error codes of the server that nats.go has no names for.
const (
	codeResources   jetstream.ErrorCode = 10023 // insufficient resources
	codeStorage     jetstream.ErrorCode = 10047 // insufficient storage resources
	codeStoreFailed jetstream.ErrorCode = 10077 // the store's own words follow
	codeWrongLast   jetstream.ErrorCode = 10164 // another last sequence than expected, of a stream with replicas
)

// Publish stores messages on the stream of their kind and returns when all of them are. Each is stored once under its
// id, so publishing again what an interruption left unsure is harmless; a reconnect is waited out in that way until ctx
// ends. Messages come to stand in the given order unless a reconnect falls in between.
//
// Errors: ErrTooLarge and a message that is not of its kind, before anything is sent; ErrFull; ErrStore.
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
	for len(msgs) > 0 { // a window of one run after the other
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

// runOf is the run that a subject of ours names.
func runOf(m *nats.Msg) string {
	if tokens := strings.Split(m.Subject, "."); len(tokens) > 2 {
		return tokens[2]
	}
	return ""
}

// sendWindow sends until every message is stored, again and again those of which that is unsure.
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
				return fmt.Errorf("%w: nothing answers on %s, the server's log may say why: %w", ErrStore, msgs[0].Subject, err)
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

// sendOnce sends all messages, waits for their answers, and returns those that are not known to be stored with the last
// error, where one that does not pass wins.
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

// broken is closed when the embedded server's store has failed: it answers nothing then.
func (c *Conn) broken() <-chan struct{} {
	if c.server == nil {
		return nil
	}
	return c.server.log.broken
}

// passing reports whether a publish that failed so may succeed when it is simply sent again.
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

// explain says of a lasting failure what it is and what to do.
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
