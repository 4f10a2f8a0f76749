package intake

import (
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer/objective"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestReplayOfAReplay: what a replay takes over from iteration 0 (the first normaliser, the first policy as the reference) is
// that of the run which had it, however many replays lie between.
func TestReplayOfAReplay(t *testing.T) {
	store, err := checkpoints.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	repository := checkpoints.New(store, t.TempDir(), zerolog.Nop())
	conn, err := streams.Open(t.Context(), streams.Options{
		Dir: t.TempDir(), Log: zerolog.Nop(), Name: "test", Limits: streams.Limits{Sync: time.Minute},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}()
	policy := func(run string, iteration uint32, metrics ...checkpoints.Metric) checkpoints.Manifest {
		t.Helper()
		m, err := repository.Commit(t.Context(), run, checkpoints.Draft{
			Kind: checkpoints.Policy, Iteration: iteration, Metrics: metrics,
			Files: []checkpoints.Source{checkpoints.FromBytes("of", []byte(run))},
		})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	declare := func(run string, change func(*schemas.Spec)) *Reader {
		t.Helper()
		spec := schemas.Default()
		spec.Run, spec.Iterations, spec.Model.From, spec.Data.Train = run, 2, "run:start", "builtin:demo/align"
		spec.Objective.Normaliser, spec.Objective.Reference = "fixed_first", "initial"
		change(&spec)
		spec = schemas.Resolve(spec, 1)
		text, err := spec.YAML()
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Declare(t.Context(), run, streams.Limits{}); err != nil {
			t.Fatal(err)
		}
		err = conn.Publish(t.Context(), schemas.Control, &events.Control{
			Schema: events.Version, Run: run, Kind: events.ControlSpec, Spec: text, SpecDigest: spec.Digest(),
		})
		if err != nil {
			t.Fatal(err)
		}
		return &Reader{Spec: spec, Streams: conn, Checkpoints: repository}
	}
	replays := func(of string, from schemas.Kind) func(*schemas.Spec) {
		return func(s *schemas.Spec) {
			s.Source = &schemas.SourceSpec{Run: of, From: string(from), Iteration: 1, Policy: strings.Repeat("ab", 32), First: 1, Last: 9}
			s.Source.OffPolicy = schemas.RefuseOffPolicy
			s.Guide.From = "run:a"
		}
	}
	declare("a", func(*schemas.Spec) {})
	zero := policy("a", 0)
	policy("a", 1, checkpoints.Metric{Name: objective.NormaliserMetric, Value: 0.25})
	declare("b", replays("a", schemas.Pairs))
	policy("b", 1)
	c := declare("c", replays("b", schemas.Scored))
	if got, err := c.firstNormaliser(t.Context(), 1); err != nil || got != 0.25 {
		t.Errorf("the first normaliser is %v (%v), want that of run a, 0.25", got, err)
	}
	if got, err := c.initial(t.Context()); err != nil || got != zero.Digest {
		t.Errorf("the reference is %.12s (%v), want run a's policy 0, %.12s", got, err, zero.Digest)
	}

	declare("d", replays("a", schemas.Prompts)) // samples pairs of its own: its first policy is 1
	first := policy("d", 1)
	e := declare("e", replays("d", schemas.Pairs))
	if got, err := e.initial(t.Context()); err != nil || got != first.Digest {
		t.Errorf("the reference is %.12s (%v), want run d's policy 1, %.12s", got, err, first.Digest)
	}
}
