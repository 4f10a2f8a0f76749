package ledger

import (
	"context"
	"errors"
	"fmt"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
)

// Settled reports whether every stage of a run has settled all messages of a kind and iteration. Readers other than stages do not
// count.
func Settled(ctx context.Context, conn *streams.Conn, kind schemas.Kind, run string, iteration uint32) (bool, error) {
	last, err := conn.Newest(ctx, kind, run, int(iteration))
	if errors.Is(err, streams.ErrNotFound) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	readers, err := conn.Readers(ctx, kind, run)
	if err != nil {
		return false, err
	}
	for _, r := range readers {
		if r.Floor < last.Seq {
			return false, nil
		}
	}
	return true, nil
}

// Expire removes the messages of a finished iteration from the logs of some kinds, and returns how many it removed. It first
// publishes a control message with the reason, so that an audit knows which messages are missing on purpose. It can be repeated.
// The caller must hold the run's lease and make sure that nobody needs the messages.
func Expire(
	ctx context.Context, conn *streams.Conn, run string, iteration uint32, kinds []schemas.Kind, reason string,
) (uint64, error) {
	failed := func(err error) error {
		return fmt.Errorf("streams: retention of run %s, iteration %d: %w", run, iteration, err)
	}
	err := conn.Publish(ctx, schemas.Control, &events.Control{
		Schema: events.Version, Run: run, Kind: events.ControlExpired, Iteration: iteration, Message: reason,
	})
	if err != nil {
		return 0, failed(err)
	}
	var removed uint64
	for _, kind := range kinds {
		if !kind.CarriesPair() {
			return removed, failed(fmt.Errorf("%s has no pairs", kind))
		}
		n, err := conn.Purge(ctx, kind, run, iteration)
		removed += n
		if err != nil {
			return removed, failed(err)
		}
	}
	return removed, nil
}

// expiry returns the reason why messages of an iteration were removed. ok is false when none were.
func expiry(ctx context.Context, conn *streams.Conn, run string, iteration uint32) (reason string, ok bool, err error) {
	err = conn.Read(ctx, schemas.Control, run, int(iteration), 0, func(r streams.Received) error {
		if m, is := r.Message.(*events.Control); is && m.GetKind() == events.ControlExpired {
			reason, ok = m.GetMessage(), true
		}
		return nil
	})
	return reason, ok, err
}
