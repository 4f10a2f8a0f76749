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
)

// LineageFile is the file of a replay's or fork's policies that says what the run began with, as JSON.
const LineageFile = "lineage.json"

// ErrOffPolicy says that pairs were sampled by other weights than those that the iteration starts from, which
// source.off_policy: accept allows.
var ErrOffPolicy = errors.New("trainer: off-policy pairs")

// Lineage is the source of a declared run: what a replay reads and a fork starts from. ok is false for a run that makes
// everything itself. As long as the run exists, what its source names must be kept: the policy source.Policy of the run
// source.Run, the policies of its later iterations, whose digests the pairs carry, and the messages from source.First to
// source.Last of the stream of source.From.
func Lineage(ctx context.Context, conn *streams.Conn, run string) (source schemas.SourceSpec, ok bool, err error) {
	spec, err := Spec(ctx, conn, run)
	if err != nil || spec.Source == nil {
		return schemas.SourceSpec{}, false, err
	}
	return *spec.Source, true, nil
}

// Descendants are the declared runs, in order, whose source is a run.
func Descendants(ctx context.Context, conn *streams.Conn, run string) ([]string, error) {
	names, err := conn.Runs(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, name := range names {
		source, ok, err := Lineage(ctx, conn, name)
		if err != nil && !errors.Is(err, streams.ErrNotFound) {
			return nil, err
		}
		if ok && source.Run == run {
			out = append(out, name)
		}
	}
	return out, nil
}

// Spec is the spec that a run was declared with; streams.ErrNotFound when it is not declared.
func Spec(ctx context.Context, conn *streams.Conn, run string) (schemas.Spec, error) {
	control, err := DeclaredSpec(ctx, conn, run)
	if err != nil {
		return schemas.Spec{}, err
	}
	specs, err := schemas.ParseSpecs("run "+run, control.GetSpec())
	if err != nil {
		return schemas.Spec{}, err
	}
	if len(specs) != 1 {
		return schemas.Spec{}, fmt.Errorf("trainer: run %s was declared with %d specs, want one", run, len(specs))
	}
	return specs[0], nil
}

// Feed is where a run finds what messages of a kind hold. replayed tells that it is the log of its source, which ends at
// feed.Last; else it is the run's own log, which has no end yet.
func Feed(spec schemas.Spec, need schemas.Kind) (feed streams.Source, replayed bool) {
	kind, replayed := spec.ReadsFrom(need)
	if !replayed {
		return streams.Source{Run: spec.Run, Kind: need}, false
	}
	s := spec.Source
	return streams.Source{
		Run: s.Run, Kind: kind, First: s.First, Last: s.Last, Begin: uint32(s.Iteration), End: uint32(spec.Iterations),
	}, true
}

// Given is the part of its source's log that a replay reads; ok is false for other runs.
func Given(spec schemas.Spec) (given streams.Source, ok bool) {
	if !spec.Replays() {
		return streams.Source{}, false
	}
	return Feed(spec, schemas.Kind(spec.Source.From))
}

// sampledBy is the run whose policies sampled the pairs in the log of a run, and its first iteration: the run itself or, where
// that is a replay from pairs or later, the one whose pairs they were.
func sampledBy(ctx context.Context, conn *streams.Conn, run string) (name string, first int, err error) {
	for {
		source, ok, err := Lineage(ctx, conn, run)
		switch {
		case err != nil:
			return run, 0, fmt.Errorf("trainer: lineage of run %s: %w", run, err)
		case !ok, source.From == schemas.FromPolicy:
			return run, 0, nil
		case source.From == string(schemas.Prompts):
			return run, source.Iteration, nil
		}
		run = source.Run
	}
}

// Origin is the policy that sampled the pairs of iteration i in the log of a run: the run's own policy i or, where the run
// is itself a replay from pairs or later, that of the run whose pairs they were.
func Origin(
	ctx context.Context, conn *streams.Conn, repository *checkpoints.Repository, run string, i uint32,
) (checkpoints.Manifest, error) {
	run, _, err := sampledBy(ctx, conn, run)
	if err != nil {
		return checkpoints.Manifest{}, err
	}
	m, err := repository.Policy(ctx, run, i)
	if err != nil {
		return m, fmt.Errorf("trainer: the policy that sampled the pairs of iteration %d: %w", i, err)
	}
	return m, nil
}

// SameWeights tells whether two policies have the same weights to the last bit.
func SameWeights(a, b checkpoints.Manifest) bool {
	x, ok := a.File(WeightsFile)
	y, also := b.File(WeightsFile)
	return ok && also && x.SHA256 == y.SHA256
}

// reference is the digest of the weights that must have given the reference log-probs of iteration i.
func (t *Trainer) reference(ctx context.Context, i uint32) (string, error) {
	if _, replayed := Feed(t.Spec, schemas.Pairs); !replayed {
		return t.base.Digest, nil
	}
	origin, err := Origin(ctx, t.Streams, t.Checkpoints, t.Spec.Source.Run, i)
	if err != nil {
		return "", err
	}
	if t.Spec.Source.OffPolicy != schemas.AcceptOffPolicy && !SameWeights(origin, t.base) {
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
	return checkpoints.FromBytes(LineageFile, append(data, '\n')), nil
}

// closeIterations tells how many pairs each iteration of a replay has: as many as its source gives. The prompter of an
// ordinary run does this.
func (t *Trainer) closeIterations(ctx context.Context) error {
	given, ok := Given(t.Spec)
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
		n, err := t.Streams.Count(ctx, given, uint32(i))
		if err != nil {
			return err
		}
		err = t.Streams.Publish(ctx, schemas.Control, &events.Control{
			Schema: events.Version, Run: t.Spec.Run, Kind: streams.ControlClosed, Iteration: uint32(i), Total: uint64(n),
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
		if m, ok := r.Message.(*events.Control); ok && m.GetKind() == streams.ControlClosed {
			total = int(m.GetTotal())
			return streams.ErrStop
		}
		return nil
	})
	return total, err
}

// recalled is an iteration of the source's log.
func (t *Trainer) recalled(ctx context.Context, feed streams.Source, i uint32) (streams.Collected, error) {
	want, err := t.given(ctx, i)
	if err != nil {
		return streams.Collected{}, err
	}
	work := fmt.Sprintf("read %s %d of %s", feed.Kind, i, feed.Run)
	return t.Streams.Recall(ctx, feed, t.Spec.Run, i, want, func(have int) {
		t.Meter.Progress(work, have, max(want, have), "pairs")
	})
}
