// Package lineage finds the spec that a run was declared with, the log that it reads, its source and its descendants. It needs
// no tensors.
package lineage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
)

// File is the name of a file of a replay's or fork's policies: the source section of the spec, as JSON.
const File = "lineage.json"

// Source is the source of a declared run: what a replay reads and a fork starts from. ok is false for a run without a source.
// As long as the run exists, these must be kept: the policy source.Policy of the run source.Run, the policies of its later
// iterations, whose digests the pairs carry, and the messages from source.First to source.Last of the stream of source.From.
func Source(ctx context.Context, conn *streams.Conn, run string) (source schemas.SourceSpec, ok bool, err error) {
	spec, err := Spec(ctx, conn, run)
	if err != nil || spec.Source == nil {
		return schemas.SourceSpec{}, false, err
	}
	return *spec.Source, true, nil
}

// Descendants returns the declared runs whose source is the given run, in order.
func Descendants(ctx context.Context, conn *streams.Conn, run string) ([]string, error) {
	names, err := conn.Runs(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, name := range names {
		source, ok, err := Source(ctx, conn, name)
		if err != nil && !errors.Is(err, streams.ErrNotFound) {
			return nil, err
		}
		if ok && source.Run == run {
			out = append(out, name)
		}
	}
	return out, nil
}

// Declared is a declaration of a run, and where the log has it.
type Declared struct {
	// Text is the spec as YAML, and Digest its digest.
	Text   []byte
	Digest string
	// Version of the program that declared the run.
	Version string
	Stream  string
	Seq     uint64
	Time    time.Time
}

// Declare declares a run with a spec, and returns the declaration that counts. That is the first one in the log, so the caller
// has to compare it with the spec.
func Declare(ctx context.Context, conn *streams.Conn, spec schemas.Spec) (Declared, error) {
	text, err := spec.Declaration()
	if err != nil {
		return Declared{}, err
	}
	first, err := conn.PublishFirst(ctx, schemas.Control, &events.Control{
		Schema: events.Version, Run: spec.Run, Kind: events.ControlSpec, Spec: text, SpecDigest: spec.Digest(),
		Message: conn.Version(),
	})
	if err != nil {
		return Declared{}, err
	}
	return declared(first)
}

// Declaration returns the declaration of a run; streams.ErrNotFound when there is none.
func Declaration(ctx context.Context, conn *streams.Conn, run string) (Declared, error) {
	first, err := conn.Find(ctx, schemas.Control, run, (&events.Control{Kind: events.ControlSpec}).ID())
	if err != nil {
		return Declared{}, err
	}
	return declared(first)
}

func declared(r streams.Received) (Declared, error) {
	control, ok := r.Message.(*events.Control)
	if !ok {
		return Declared{}, fmt.Errorf("lineage: %s at %d: the spec is a %T", r.Stream, r.Seq, r.Message)
	}
	return Declared{control.GetSpec(), control.GetSpecDigest(), control.GetMessage(), r.Stream, r.Seq, r.Time}, nil
}

// ErrOtherVersion: this program cannot read the spec that a program of another version has declared a run with.
var ErrOtherVersion = errors.New("a program of another version declared the run")

// Spec is the spec that a run was declared with; streams.ErrNotFound when it is not declared, ErrOtherVersion when this program
// would compute something else than the declaration says.
func Spec(ctx context.Context, conn *streams.Conn, run string) (schemas.Spec, error) {
	found, err := Declaration(ctx, conn, run)
	if err != nil {
		return schemas.Spec{}, err
	}
	spec, err := schemas.ParseDeclared("run "+run, found.Text)
	if digest := spec.Digest(); err == nil && digest != found.Digest {
		err = fmt.Errorf("this program gives the spec the digest %.12s, the declaration %.12s", digest, found.Digest)
	}
	if err != nil {
		return schemas.Spec{}, fmt.Errorf("%w: run %s by ldalign %s, this is ldalign %s: use the newer one of them: %w",
			ErrOtherVersion, run, known(found.Version), known(conn.Version()), err)
	}
	return spec, nil
}

func known(version string) string {
	if version == "" {
		return "of an unknown version"
	}
	return version
}

// Feed returns the log from which a run reads messages of a kind. replayed says that it is the log of the run's source, which
// ends at feed.Last; otherwise it is the run's own log, which has no end yet.
func Feed(spec schemas.Spec, need schemas.Kind) (feed streams.Source, replayed bool) {
	kind, replayed := spec.ReadsFrom(need)
	if !replayed {
		return streams.Source{Run: spec.Run, Kind: need}, false
	}
	s := spec.Source
	return streams.Source{
		Run: s.Run, Kind: kind, First: s.First, Last: s.Last,
	}, true
}

// Given is the part of its source's log that a replay reads. ok is false for other runs.
func Given(spec schemas.Spec) (given streams.Source, ok bool) {
	if !spec.Replays() {
		return streams.Source{}, false
	}
	return Feed(spec, schemas.Kind(spec.Source.From))
}

// SampledBy returns the run whose policies sampled the pairs that a run trains on, and that run's first iteration. It is the
// run itself, unless the run is a replay from pairs or later; then it is the run that made the pairs.
func SampledBy(ctx context.Context, conn *streams.Conn, run string) (name string, first int, err error) {
	for {
		source, ok, err := Source(ctx, conn, run)
		switch {
		case err != nil:
			return run, 0, fmt.Errorf("lineage: lineage of run %s: %w", run, err)
		case !ok, source.From == schemas.FromPolicy:
			return run, 0, nil
		case source.From == string(schemas.Prompts):
			return run, source.Iteration, nil
		}
		run = source.Run
	}
}

// Origin returns the policy that sampled the pairs of iteration i that a run trains on. It is the run's own policy i, unless
// the run is a replay from pairs or later; then it is policy i of the run that made the pairs.
func Origin(
	ctx context.Context, conn *streams.Conn, repository *checkpoints.Repository, run string, i uint32,
) (checkpoints.Manifest, error) {
	run, _, err := SampledBy(ctx, conn, run)
	if err != nil {
		return checkpoints.Manifest{}, err
	}
	m, err := repository.Policy(ctx, run, i)
	if err != nil {
		return m, fmt.Errorf("lineage: the policy that sampled the pairs of iteration %d: %w", i, err)
	}
	return m, nil
}

// SameWeights reports whether two policies have the same weights to the last bit.
func SameWeights(a, b checkpoints.Manifest) bool {
	x, ok := a.File(checkpoints.WeightsFile)
	y, also := b.File(checkpoints.WeightsFile)
	return ok && also && x.SHA256 == y.SHA256
}

// Describe returns one line about the source of a run; it is empty for a run without a source.
func Describe(spec schemas.Spec) string {
	s := spec.Source
	if s == nil {
		return ""
	}
	if s.From == schemas.FromPolicy {
		return fmt.Sprintf("fork of run %s at policy %d (%.12s)", s.Run, s.Iteration, s.Policy)
	}
	iterations := fmt.Sprintf("iteration %d", s.Iteration)
	if last := spec.Iterations - 1; last > s.Iteration {
		iterations = fmt.Sprintf("iterations %d to %d", s.Iteration, last)
	}
	start := "model.from"
	if s.Policy != "" {
		start = fmt.Sprintf("its policy %d (%.12s)", s.Iteration, s.Policy)
	}
	return fmt.Sprintf("replay of run %s from %s, %s, sequences %d to %d, starting from %s", s.Run, s.From, iterations, s.First,
		s.Last, start)
}
