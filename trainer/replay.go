package trainer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/ledger"
	"github.com/ldalign/ldalign/trainer/activity"
	"github.com/ldalign/ldalign/trainer/lineage"
)

// ErrOffPolicy says that pairs were sampled by other weights than those that the iteration starts from, which
// source.off_policy: accept allows.
var ErrOffPolicy = errors.New("trainer: off-policy pairs")

// reference is the digest of the weights that must have given the reference log-probs of iteration i.
func (t *Trainer) reference(ctx context.Context, i uint32) (string, error) {
	if _, replayed := lineage.Feed(t.Spec, schemas.Pairs); !replayed {
		return t.base.Digest, nil
	}
	origin, err := lineage.Origin(ctx, t.Streams, t.Checkpoints, t.Spec.Source.Run, i)
	if err != nil {
		return "", err
	}
	if t.Spec.Source.OffPolicy != schemas.AcceptOffPolicy && !lineage.SameWeights(origin, t.base) {
		return "", fmt.Errorf("%w: the pairs of iteration %d in run %s were sampled by %.12s, but policy %d of this run (%.12s) has "+
			"other weights: replay iteration %d alone (--iteration %d), or accept it by source.off_policy: accept (--off-policy)",
			ErrOffPolicy, i, t.Spec.Source.Run, origin.Digest, i, t.base.Digest, i, i)
	}
	return origin.Digest, nil
}

// inherit makes the run's first policy from the policy that its source names.
func (t *Trainer) inherit(ctx context.Context) (checkpoints.Manifest, error) {
	s := t.Spec.Source
	from, err := t.Checkpoints.ByDigest(ctx, s.Run, s.Policy)
	if err != nil {
		return from, fmt.Errorf("trainer: the policy that this run starts from: %w", err)
	}
	files, known, err := t.policyFiles(ctx, from)
	if err != nil {
		return from, err
	}
	lineage, err := lineageSource(*s)
	if err != nil {
		return from, err
	}
	return t.Checkpoints.Commit(ctx, t.Spec.Run, checkpoints.Draft{
		Kind: checkpoints.Policy, Iteration: uint32(t.Spec.FirstIteration()), Parent: from.Digest, SpecDigest: t.Spec.Digest(),
		Metrics: known, Files: append(files, lineage),
	})
}

func lineageSource(s schemas.SourceSpec) (checkpoints.Source, error) {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return checkpoints.Source{}, fmt.Errorf("trainer: lineage: %w", err)
	}
	return checkpoints.FromBytes(lineage.File, append(data, '\n')), nil
}

// closeIterations tells how many pairs each iteration of a replay has: as many as its source gives. The prompter of an
// ordinary run does this.
func (t *Trainer) closeIterations(ctx context.Context) error {
	given, ok := lineage.Given(t.Spec)
	if !ok {
		return nil
	}
	for i := t.Spec.FirstIteration(); i < t.Spec.Iterations; i++ {
		if total, err := t.given(ctx, uint32(i)); err != nil || total >= 0 {
			if err != nil {
				return err
			}
			continue
		}
		n, err := ledger.CountIn(ctx, t.Streams, given, uint32(i))
		if err != nil {
			return err
		}
		err = t.Streams.Publish(ctx, schemas.Control, &events.Control{
			Schema: events.Version, Run: t.Spec.Run, Kind: events.ControlClosed, Iteration: uint32(i), Total: uint64(n),
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// given is how many pairs an iteration of the run had when it began; -1 when that is not noted yet.
func (t *Trainer) given(ctx context.Context, i uint32) (int, error) {
	total := -1
	err := t.Streams.Read(ctx, schemas.Control, t.Spec.Run, int(i), 0, func(r streams.Received) error {
		if m, ok := r.Message.(*events.Control); ok && m.GetKind() == events.ControlClosed {
			total = int(m.GetTotal())
			return streams.ErrStop
		}
		return nil
	})
	return total, err
}

// recalled is an iteration of the source's log.
func (t *Trainer) recalled(ctx context.Context, phase string, feed streams.Source, i uint32) (ledger.Collected, error) {
	want, err := t.given(ctx, i)
	if err != nil {
		return ledger.Collected{}, err
	}
	return ledger.Recall(ctx, t.Streams, feed, t.Spec.Run, i, want, func(have int) {
		t.Meter.Observe(activity.Reading{Work: t.work(phase, i, have, max(want, have)), Kind: feed.Kind, Source: feed.Run})
	})
}
