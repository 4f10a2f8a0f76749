package trainer_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer"
	"github.com/ldalign/ldalign/trainer/curves"
)

// segmented is a run whose steps and pairs make several segments of size 2.
func segmented(run string) schemas.Spec {
	return testSpec(run, func(s *schemas.Spec) {
		s.Objective.Kind, s.Iterations, s.Training.Epochs, s.Training.CheckpointEvery = "sft", 1, 3, 1
	})
}

// stateDigests are the digests of a run's states by step, and of its policies.
func (w *world) stateDigests(run string) map[string]string {
	w.t.Helper()
	all, err := w.checkpoints.List(w.t.Context(), run)
	if err != nil {
		w.t.Fatal(err)
	}
	digests := map[string]string{}
	for _, m := range all {
		name := fmt.Sprint(m.Kind, " ", m.Step)
		if before, twice := digests[name]; twice && before != m.Digest {
			w.t.Errorf("%s was saved again with another digest", name)
		}
		digests[name] = m.Digest
	}
	return digests
}

// TestSegmentsOfAKilledRun: states and policy of a run that was stopped at every step, or killed at every step, have the digests
// of a run that was left alone, though all that no kept manifest names was removed in between. So have those of one that goes
// on from a state in one segment.
func TestSegmentsOfAKilledRun(t *testing.T) {
	const run, work = "segmented", "train sft 0"
	undisturbed := newWorld(t)
	undisturbed.segmentLines = 2
	undisturbed.finish(segmented(run))
	want := undisturbed.stateDigests(run)
	if len(want) != 10 { // policy 0, states 1 to 8, policy 1
		t.Fatalf("%d checkpoints, want 10", len(want))
	}
	collect := func(w *world) {
		t.Helper()
		_, err := w.checkpoints.Prune(t.Context(), run, 1)
		if err == nil {
			_, err = w.checkpoints.Sweep(t.Context(), run, 0, false)
		}
		if err != nil {
			t.Fatal(err)
		}
	}

	stopped := newWorld(t)
	stopped.segmentLines = 2
	for step := range 9 {
		ctx, meter := stopAt(t.Context(), work, step)
		if err := stopped.work(ctx, segmented(run), meter); !errors.Is(err, trainer.ErrInterrupted) {
			t.Fatalf("stopped at step %d: %v, want trainer.ErrInterrupted", step, err)
		}
		collect(stopped)
		state := stopped.latest(run, checkpoints.State)
		if n := len(stopped.records(state)); n != step || len(stopped.batches(state).Steps) != step {
			t.Fatalf("the state of step %d reads as %d records", step, n)
		}
		if n := len(state.Segments(curves.File)); n != max(step-1, 0)/2 {
			t.Errorf("the state of step %d has %d segments of records", step, n)
		}
	}
	stopped.finish(segmented(run))
	got := stopped.stateDigests(run)
	delete(got, "state 0")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-undisturbed +stopped):\n%s", diff)
	}

	killed := newWorld(t)
	killed.segmentLines = 2
	for step := 1; step < 9; step++ {
		ctx, cancel := context.WithCancel(t.Context())
		err := killed.work(ctx, segmented(run), func(w string, done, _ int) {
			if w == work && done >= step {
				killed.store.refuse.Store(true)
				cancel()
			}
		})
		cancel()
		killed.store.refuse.Store(false)
		if err == nil {
			t.Fatalf("the run was not cut off at step %d", step)
		}
		collect(killed)
	}
	killed.finish(segmented(run))
	if diff := cmp.Diff(want, killed.stateDigests(run)); diff != "" {
		t.Errorf("(-undisturbed +killed):\n%s", diff)
	}

	older := newWorld(t)
	ctx, meter := stopAt(t.Context(), work, 5)
	if err := older.work(ctx, segmented(run), meter); !errors.Is(err, trainer.ErrInterrupted) {
		t.Fatal(err)
	}
	older.segmentLines = 2
	older.finish(segmented(run))
	got = older.stateDigests(run)
	for _, name := range []string{"state 6", "state 8", "policy 9"} {
		if got[name] == "" || got[name] != want[name] {
			t.Errorf("%s after a state in one segment: %.12s, want %.12s", name, got[name], want[name])
		}
	}
}

// TestDamagedSegmentIsWrittenAnew: all states name it, so the run begins the iteration again; it arrives at the same bits, and
// the segment is whole in what is published and kept.
func TestDamagedSegmentIsWrittenAnew(t *testing.T) {
	w := newWorld(t)
	w.segmentLines = 2
	w.finish(segmented("undisturbed"))
	for _, kind := range []string{"records/", "batches/steps-", "batches/pairs-"} {
		t.Run(kind, func(t *testing.T) {
			spec := segmented("damaged-" + kind[:1] + kind[len(kind)-6:len(kind)-1])
			ctx, meter := stopAt(t.Context(), "train sft 0", 6)
			if err := w.work(ctx, spec, meter); !errors.Is(err, trainer.ErrInterrupted) {
				t.Fatal(err)
			}
			w.damage(w.latest(spec.Run, checkpoints.State), kind+"00000000.jsonl", flip)
			from := -1
			ctx, meter = stopAt(t.Context(), "train sft 0", 6)
			err := w.work(ctx, spec, func(work string, done, total int) {
				if work == "train sft 0" && from < 0 {
					from = done
				}
				meter(work, done, total)
			})
			if !errors.Is(err, trainer.ErrInterrupted) || from != 0 {
				t.Fatalf("it went on from step %d, want 0: %v", from, err)
			}
			w.reopen() // the next process has not seen the damage
			w.finish(spec)
			if diff := cmp.Diff(w.results("undisturbed"), w.results(spec.Run)); diff != "" {
				t.Errorf("(-undisturbed +damaged):\n%s", diff)
			}
		})
	}
}
