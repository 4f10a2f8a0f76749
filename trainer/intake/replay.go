package intake

import (
	"context"
	"errors"
	"fmt"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/ledger"
	"github.com/ldalign/ldalign/trainer/activity"
	"github.com/ldalign/ldalign/trainer/lineage"
)

// ErrOffPolicy says that pairs were sampled by other weights than those that the iteration starts from. source.off_policy:
// accept allows such pairs.
var ErrOffPolicy = errors.New("trainer: off-policy pairs")

// startsFrom is the digest of the policy that must have sampled the pairs of iteration i. Its weights are those that the
// iteration starts from, unless the spec accepts others.
func (r *Reader) startsFrom(ctx context.Context, i uint32) (string, error) {
	if _, replayed := lineage.Feed(r.Spec, schemas.Pairs); !replayed {
		return r.Base.Digest, nil
	}
	origin, err := lineage.Origin(ctx, r.Streams, r.Checkpoints, r.Spec.Source.Run, i)
	if err != nil {
		return "", err
	}
	if r.Spec.Source.OffPolicy != schemas.AcceptOffPolicy && !lineage.SameWeights(origin, r.Base) {
		return "", fmt.Errorf("%w: the pairs of iteration %d in run %s were sampled by %.12s, but policy %d of this run (%.12s) has "+
			"other weights: replay only iteration %d (--iteration %d), or set source.off_policy: accept (--off-policy)",
			ErrOffPolicy, i, r.Spec.Source.Run, origin.Digest, i, r.Base.Digest, i, i)
	}
	return origin.Digest, nil
}

// CloseIterations publishes how many pairs each iteration of a replay has: as many as its source's log has. In other runs the
// prompter does this.
func (r *Reader) CloseIterations(ctx context.Context) error {
	given, ok := lineage.Given(r.Spec)
	if !ok {
		return nil
	}
	for i := r.Spec.FirstIteration(); i < r.Spec.Iterations; i++ {
		if _, ok, err := r.closed(ctx, r.Spec.Run, uint32(i)); err != nil {
			return err
		} else if ok {
			continue
		}
		n, err := ledger.CountIn(ctx, r.Streams, given, uint32(i))
		if err != nil {
			return err
		}
		err = r.Streams.Publish(ctx, schemas.Control, &events.Control{
			Schema: events.Version, Run: r.Spec.Run, Kind: events.ControlClosed, Iteration: uint32(i), Total: uint64(n),
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// closed returns how many pairs an iteration of a run has, including dead letters. ok is false if that is not published yet.
func (r *Reader) closed(ctx context.Context, run string, i uint32) (total int, ok bool, err error) {
	err = r.Streams.Read(ctx, schemas.Control, run, int(i), 0, func(m streams.Received) error {
		if c, is := m.Message.(*events.Control); is && c.GetKind() == events.ControlClosed {
			total, ok = int(c.GetTotal()), true
			return streams.ErrStop
		}
		return nil
	})
	return total, ok, err
}

// recalled reads an iteration from the source's log.
func (r *Reader) recalled(ctx context.Context, phase string, feed streams.Source, i uint32) (ledger.Collected, error) {
	want, ok, err := r.closed(ctx, r.Spec.Run, i)
	if err != nil {
		return ledger.Collected{}, err
	}
	if !ok {
		want = -1
	}
	return ledger.Recall(ctx, r.Streams, feed, r.Spec.Run, i, want, func(have int) {
		r.Observe(activity.Reading{Work: r.work(phase, i, have, max(want, have)), Kind: feed.Kind, Source: feed.Run})
	})
}
