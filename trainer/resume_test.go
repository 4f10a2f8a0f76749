package trainer_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer"
	"github.com/ldalign/ldalign/trainer/loop"
)

// results are what must not depend on how often a run was stopped: the files and figures of its guide and policies.
func (w *world) results(run string) map[string]any {
	w.t.Helper()
	all, err := w.checkpoints.List(w.t.Context(), run)
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[string]any{}
	for _, m := range all {
		if m.Kind == checkpoints.State {
			continue
		}
		name := fmt.Sprintf("%s %d", m.Kind, m.Iteration)
		if out[name] != nil {
			w.t.Errorf("run %s has %s twice", run, name)
		}
		// pair ids differ between runs of different names, and so does the file with them
		files := slices.DeleteFunc(slices.Clone(m.Files), func(f checkpoints.File) bool { return f.Name == checkpoints.BatchesFile })
		out[name] = struct {
			Step    uint64
			Files   []checkpoints.File
			Metrics []checkpoints.Metric
			Batches []checkpoints.Batch
		}{m.Step, files, m.Metrics, w.batches(m).Steps}
	}
	return out
}

// TestInterruptedRunEqualsUndisturbed stops runs between steps of the guide and of the policy, once and at every step, and
// goes on with them. Weights, records and figures of all checkpoints are those of a run that was left alone, to the bit.
func TestInterruptedRunEqualsUndisturbed(t *testing.T) {
	w := newWorld(t)
	two := func(s *schemas.Spec) {
		s.Training.Epochs, s.Guide.Epochs = 2, 2
		s.Optimizer.Kind = "adamw"
		s.Guide.Optimizer.Kind = "rmsprop"
	}
	w.finish(testSpec("undisturbed", two))
	want := w.results("undisturbed")
	if len(want) != 4 {
		t.Fatalf("%d checkpoints, want the guide and policies 0, 1 and 2", len(want))
	}
	type stop struct {
		work string
		step int
	}
	const guide, first, second = "train guide", "train ldalign 0", "train ldalign 1"
	everywhere := []stop{}
	for _, work := range []string{guide, first, second} {
		for step := range 7 {
			everywhere = append(everywhere, stop{work, step})
		}
	}
	tests := []struct {
		run   string
		stops []stop
	}{
		{"guide-at-1", []stop{{guide, 1}}},
		{"guide-at-last", []stop{{guide, 6}}},
		{"policy-at-1", []stop{{first, 1}}},
		{"policy-in-epoch-2", []stop{{second, 4}}},
		{"policy-at-last", []stop{{second, 6}}},
		{"everywhere", everywhere},
	}
	for _, test := range tests {
		t.Run(test.run, func(t *testing.T) {
			spec := testSpec(test.run, two)
			for _, s := range test.stops {
				ctx, meter := stopAt(t.Context(), s.work, s.step)
				if err := w.work(ctx, spec, meter); !errors.Is(err, trainer.ErrInterrupted) {
					t.Fatalf("stopped at step %d of %s: %v, want trainer.ErrInterrupted", s.step, s.work, err)
				}
				state := w.latest(test.run, checkpoints.State)
				if state.Cursor.Step != s.step {
					t.Fatalf("stopped at step %d of %s: the state is of step %d", s.step, s.work, state.Cursor.Step)
				}
			}
			w.finish(spec)
			if diff := cmp.Diff(want, w.results(test.run)); diff != "" {
				t.Errorf("(-undisturbed +interrupted):\n%s", diff)
			}
		})
	}
}

// TestKilledRunEqualsUndisturbed: a trainer that ends without saving repeats the steps since its last state.
func TestKilledRunEqualsUndisturbed(t *testing.T) {
	w := newWorld(t)
	// its pairs make the streams' sequences differ, as those of other runs do
	w.finish(testSpec("before", func(s *schemas.Spec) { s.Objective.Kind, s.Iterations = "spin", 1 }))
	w.finish(testSpec("undisturbed"))
	want := w.results("undisturbed")
	for _, test := range []struct {
		run, work string
		step      int
	}{
		{"in-guide", "train guide", 2},
		{"after-guide", "wait for scored 0", 0}, // the newest state is the guide's
		{"in-policy", "train ldalign 0", 2},
		{"between", "wait for scored 1", 0},
		{"in-last", "train ldalign 1", 2},
	} {
		t.Run(test.run, func(t *testing.T) {
			spec := testSpec(test.run, func(s *schemas.Spec) { s.Training.CheckpointEvery = 1 })
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			err := w.work(ctx, spec, func(work string, done, _ int) {
				if work == test.work && done >= test.step {
					w.store.refuse.Store(true)
					cancel()
				}
			})
			w.store.refuse.Store(false)
			if err == nil {
				t.Fatal("the run was not cut off")
			}
			w.finish(spec)
			if diff := cmp.Diff(want, w.results(test.run)); diff != "" {
				t.Errorf("(-undisturbed +killed):\n%s", diff)
			}
		})
	}
}

// TestRestoredStateIsWhole: a trainer that is stopped before its first step saves the state that it has read: weights,
// optimizer and records, to the bit.
func TestRestoredStateIsWhole(t *testing.T) {
	w := newWorld(t)
	for _, kind := range []string{"adamw", "rmsprop"} {
		spec := testSpec("of-"+kind, func(s *schemas.Spec) {
			s.Objective.Kind, s.Optimizer.Kind, s.Iterations = "sft", kind, 1
		})
		ctx, meter := stopAt(t.Context(), "train sft 0", 2)
		if err := w.work(ctx, spec, meter); !errors.Is(err, trainer.ErrInterrupted) {
			t.Fatal(err)
		}
		saved := w.latest(spec.Run, checkpoints.State)
		ctx, meter = stopAt(t.Context(), "train sft 0", 0)
		if err := w.work(ctx, spec, meter); !errors.Is(err, trainer.ErrInterrupted) {
			t.Fatal(err)
		}
		again := w.latest(spec.Run, checkpoints.State)
		if again.Digest != saved.Digest {
			t.Errorf("%s: restored and saved again (-saved +again):\n%s", kind, cmp.Diff(saved, again))
		}
		if w.file(saved, loop.OptimizerFile).SHA256 == w.file(saved, checkpoints.WeightsFile).SHA256 || len(w.records(saved)) != 2 {
			t.Errorf("%s: the state holds %d records, want 2", kind, len(w.records(saved)))
		}
		w.finish(spec)
		records := w.records(w.policy(spec.Run, 1))
		for i, r := range records {
			if r.Step != i+1 {
				t.Errorf("%s: record %d is of step %d", kind, i, r.Step)
			}
		}
		if len(records) != 3 {
			t.Errorf("%s: %d records, want 3", kind, len(records))
		}
	}
}

// TestCursorBeyondTheLog: a state that has seen more of the stream than there is means lost messages, and must not be
// trained on.
func TestCursorBeyondTheLog(t *testing.T) {
	w := newWorld(t)
	spec := testSpec("lost", func(s *schemas.Spec) { s.Objective.Kind = "sft" })
	ctx, meter := stopAt(t.Context(), "train sft 0", 1)
	if err := w.work(ctx, spec, meter); !errors.Is(err, trainer.ErrInterrupted) {
		t.Fatal(err)
	}
	state := w.latest(spec.Run, checkpoints.State)
	cursor := *state.Cursor
	cursor.Sequence += 1000
	var files []checkpoints.Source
	for _, f := range state.Files {
		files = append(files, checkpoints.Carry(f))
	}
	_, err := w.checkpoints.Commit(t.Context(), spec.Run, checkpoints.Draft{
		Kind: checkpoints.State, Iteration: state.Iteration, Step: state.Step, Parent: state.Parent, SpecDigest: state.SpecDigest,
		Cursor: &cursor, Files: files,
	})
	if err != nil {
		t.Fatal(err)
	}
	err = w.work(t.Context(), spec, silent)
	if err == nil || !strings.Contains(err.Error(), "messages were lost") {
		t.Errorf("got %v, want an error that tells of lost messages", err)
	}
}

// TestEventsAreMadeUpFor: checkpoints whose events are not on the stream, as after a crash in between or with a new stream
// server, are announced when a trainer starts.
func TestEventsAreMadeUpFor(t *testing.T) {
	w := newWorld(t)
	spec := testSpec("announced", func(s *schemas.Spec) { s.Objective.Kind, s.Iterations = "sft", 1 })
	w.finish(spec)
	announced := func() (digests []string) {
		t.Helper()
		err := w.streams.Read(t.Context(), schemas.Checkpoints, spec.Run, streams.AllIterations, 0, func(r streams.Received) error {
			digests = append(digests, r.Message.(*events.Checkpoint).GetDigest())
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return digests
	}
	want := []string{w.policy(spec.Run, 0).Digest, w.policy(spec.Run, 1).Digest}
	if diff := cmp.Diff(want, announced()); diff != "" {
		t.Errorf("events of the run (-want +got):\n%s", diff)
	}
	w.openStreams(t.TempDir())
	for range 2 { // and only once
		if err := w.trainer(spec, silent).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, announced()); diff != "" {
			t.Errorf("events made up for (-want +got):\n%s", diff)
		}
	}
}
