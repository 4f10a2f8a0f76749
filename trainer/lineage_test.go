package trainer

import (
	"strings"
	"testing"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas"
)

// TestReplayOfAReplay: what a replay takes over from iteration 0 (the first normaliser, the first policy as the reference) is
// that of the run which had it, however many replays lie between.
func TestReplayOfAReplay(t *testing.T) {
	w := newWorld(t)
	policy := func(run string, iteration uint32, metrics ...checkpoints.Metric) checkpoints.Manifest {
		t.Helper()
		m, err := w.checkpoints.Commit(t.Context(), run, checkpoints.Draft{
			Kind: checkpoints.Policy, Iteration: iteration, Metrics: metrics,
			Files: []checkpoints.Source{checkpoints.FromBytes("of", []byte(run))},
		})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	declare := func(spec schemas.Spec) *Trainer {
		t.Helper()
		out := w.trainer(spec, silent)
		if err := out.declare(t.Context()); err != nil {
			t.Fatal(err)
		}
		return out
	}
	replays := func(of string, from schemas.Kind) func(*schemas.Spec) {
		return func(s *schemas.Spec) {
			s.Objective.Normaliser, s.Objective.Reference = "fixed_first", "initial"
			s.Source = &schemas.SourceSpec{Run: of, From: string(from), Iteration: 1, Policy: strings.Repeat("ab", 32), First: 1, Last: 9}
			s.Source.OffPolicy = schemas.RefuseOffPolicy
			s.Guide.From = "run:a"
		}
	}
	declare(testSpec("a", func(s *schemas.Spec) {
		s.Objective.Normaliser, s.Objective.Reference = "fixed_first", "initial"
	}))
	zero := policy("a", 0)
	policy("a", 1, checkpoints.Metric{Name: normaliserMetric, Value: 0.25})
	declare(testSpec("b", replays("a", schemas.Pairs)))
	policy("b", 1)
	c := declare(testSpec("c", replays("b", schemas.Scored)))
	if got, err := c.firstNormaliser(t.Context(), 1); err != nil || got != 0.25 {
		t.Errorf("the first normaliser is %v (%v), want that of run a, 0.25", got, err)
	}
	if got, err := c.referenceDigest(t.Context(), "of the pairs"); err != nil || got != zero.Digest {
		t.Errorf("the reference is %.12s (%v), want run a's policy 0, %.12s", got, err, zero.Digest)
	}

	declare(testSpec("d", replays("a", schemas.Prompts))) // samples pairs of its own: its first policy is 1
	first := policy("d", 1)
	e := declare(testSpec("e", replays("d", schemas.Pairs)))
	if got, err := e.referenceDigest(t.Context(), "of the pairs"); err != nil || got != first.Digest {
		t.Errorf("the reference is %.12s (%v), want run d's policy 1, %.12s", got, err, first.Digest)
	}
}
