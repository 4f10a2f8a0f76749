package streams

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// ControlExpired is the kind of the control message that tells that messages of an iteration were removed by the run's
// retention, and why.
const ControlExpired = "expired"

// Settled tells whether every stage of a run has settled all messages of a kind and iteration. Readers that are no stages are
// not asked.
func (c *Conn) Settled(ctx context.Context, kind schemas.Kind, run string, iteration uint32) (bool, error) {
	failed := func(err error) error {
		return fmt.Errorf("streams: %s of run %s, iteration %d: %w", kind, run, iteration, err)
	}
	stream, err := c.js.Stream(ctx, StreamName(kind))
	if err != nil {
		return false, failed(err)
	}
	last, err := stream.GetLastMsgForSubject(ctx, schemas.Subject(kind, run, iteration))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return true, nil
	}
	if err != nil {
		return false, failed(err)
	}
	infos, err := c.consumers(ctx, kind, run)
	if err != nil {
		return false, failed(err)
	}
	for _, info := range infos {
		if floorOf(info) < last.Sequence {
			return false, nil
		}
	}
	return true, nil
}

// floorOf is the position up to which a stage has acknowledged everything.
func floorOf(info *jetstream.ConsumerInfo) uint64 {
	if info.NumPending == 0 && info.NumAckPending == 0 {
		return max(info.AckFloor.Stream, info.Delivered.Stream)
	}
	return info.AckFloor.Stream
}

// Expire removes messages of a finished iteration from the logs of some kinds, and returns their number. A control message
// that says so, with the reason, is stored before, so that an audit knows what is missing on purpose; it can be repeated. The
// caller holds the run's lease and knows that nobody needs them.
func (c *Conn) Expire(ctx context.Context, run string, iteration uint32, kinds []schemas.Kind, reason string) (uint64, error) {
	failed := func(err error) error {
		return fmt.Errorf("streams: retention of run %s, iteration %d: %w", run, iteration, err)
	}
	err := c.Publish(ctx, schemas.Control, &events.Control{
		Schema: events.Version, Run: run, Kind: ControlExpired, Iteration: iteration, Message: reason,
	})
	if err != nil {
		return 0, failed(err)
	}
	var removed uint64
	for _, kind := range kinds {
		if !carriesPair(kind) {
			return removed, failed(fmt.Errorf("%s has no pairs", kind))
		}
		n, err := c.purge(ctx, kind, schemas.Subject(kind, run, iteration))
		removed += n
		if err != nil {
			return removed, failed(err)
		}
	}
	if removed > 0 {
		c.log.Info().Str("run", run).Uint32("iteration", iteration).Uint64("messages", removed).Msg("messages removed by retention")
	}
	return removed, nil
}

// held is how many messages on the subjects that match a kind's stream holds.
func (c *Conn) held(ctx context.Context, kind schemas.Kind, subjects string) (uint64, error) {
	state, err := c.state(ctx, kind, subjects)
	if err != nil {
		return 0, err
	}
	var n uint64
	for _, count := range state.Subjects {
		n += count
	}
	return n, nil
}

// purge removes the messages on the subjects that match from a kind's stream, and notes that holes are left.
func (c *Conn) purge(ctx context.Context, kind schemas.Kind, subjects string) (uint64, error) {
	n, err := c.held(ctx, kind, subjects)
	if err != nil || n == 0 {
		return 0, err
	}
	// counted before they go: a hole too many hides less than one too few frightens
	if err := c.addPurged(ctx, kind, n); err != nil {
		return 0, err
	}
	stream, err := c.js.Stream(ctx, StreamName(kind))
	if err != nil {
		return 0, err
	}
	return n, stream.Purge(ctx, jetstream.WithPurgeSubject(subjects))
}

// expired tells why messages of an iteration were removed; ok is false when none were.
func (c *Conn) expired(ctx context.Context, run string, iteration uint32) (reason string, ok bool, err error) {
	err = c.Read(ctx, schemas.Control, run, int(iteration), 0, func(r Received) error {
		if m, is := r.Message.(*events.Control); is && m.GetKind() == ControlExpired {
			reason, ok = m.GetMessage(), true
		}
		return nil
	})
	return reason, ok, err
}
