package trainer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/curves"
)

// lineCounter counts lines.
type lineCounter int

func (n *lineCounter) Write(p []byte) (int, error) {
	for _, b := range p {
		if b == '\n' {
			*n++
		}
	}
	return len(p), nil
}

// TestStatesDoNotGrow: after how many steps it may be, a state writes no more lines than its last piece and what is behind
// it, and no more of the steps are in memory; yet each state reads as all steps, and so does what is published.
func TestStatesDoNotGrow(t *testing.T) {
	const size, steps, every = 5, 63, 3
	w := newWorld(t)
	var all checkpoints.Batches
	for i := range 17 {
		all.Pairs = append(all.Pairs, fmt.Sprint("pair ", i))
	}
	all.Earlier, all.Skipped = 4, []checkpoints.Skipped{{ID: "none", Reason: schemas.ReasonEmpty}}
	p := &phase{batches: all, pieces: pieces{size: size}}
	var records []curves.Step
	for step := range steps {
		batch := checkpoints.Batch{Step: step + 1, Epoch: step, Pairs: sequence(0, 17)}
		records, all.Steps = append(records, curves.Step{Step: step + 1}), append(all.Steps, batch)
		p.records, p.batches.Steps = append(p.records, records[step]), append(p.batches.Steps, batch)
		if step%every != 0 {
			continue
		}
		p.settle()
		files := p.lines()
		m, err := w.checkpoints.Commit(t.Context(), "grown", checkpoints.Draft{Kind: checkpoints.State, Files: files})
		if err != nil {
			t.Fatal(err)
		}
		p.pieces.committed = &m
		if diff := cmp.Diff(records, w.records(m)); diff != "" {
			t.Fatalf("records of the state of step %d (-made +read):\n%s", step+1, diff)
		}
		if diff := cmp.Diff(all, w.batches(m), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("batches of the state of step %d (-made +read):\n%s", step+1, diff)
		}
		var lines lineCounter
		for _, f := range files {
			if f.Write != nil {
				if err := f.Write(&lines); err != nil {
					t.Fatal(err)
				}
			}
		}
		// records and batches: at most a piece and as much again; pairs: the last two and the skipped one, and all of them once
		most := 2*2*size + 3
		if step == 0 {
			most = 2 + len(all.Pairs) + 1
		}
		if int(lines) > most {
			t.Errorf("the state of step %d writes %d lines anew, want %d at most", step+1, lines, most)
		}
		if len(p.records) > 2*size+every || len(p.batches.Steps) != len(p.records) {
			t.Errorf("after step %d, %d records and %d batches are in memory", step+1, len(p.records), len(p.batches.Steps))
		}
	}
	if p.made() != steps {
		t.Errorf("%d steps are made, want %d", p.made(), steps)
	}
	trainer := w.trainer(testSpec("grown"), silent)
	policy, err := w.checkpoints.Commit(t.Context(), "grown", checkpoints.Draft{
		Kind: checkpoints.Policy, Files: trainer.wholeLines(t.Context(), p),
	})
	if err != nil {
		t.Fatal(err)
	}
	write := map[string]func(io.Writer) error{
		curves.File:             func(w io.Writer) error { return curves.Write(w, records) },
		checkpoints.BatchesFile: all.Write,
	}
	var want []checkpoints.Source
	for name, f := range write {
		want = append(want, checkpoints.Source{Name: name, Write: f})
	}
	plain, err := w.checkpoints.Commit(t.Context(), "plain", checkpoints.Draft{Kind: checkpoints.Policy, Files: want})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(plain.Files, policy.Files); diff != "" {
		t.Errorf("what is published is not what was made (-made +published):\n%s", diff)
	}
}

// pieced is a run whose steps and pairs make several pieces of size 2.
func pieced(run string) schemas.Spec {
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

// TestPiecesOfAKilledRun: states and policy of a run that was stopped at every step, or killed at every step, have the digests
// of a run that was left alone, though all that no kept manifest names was removed in between. So have those of one that goes
// on from a state in one piece.
func TestPiecesOfAKilledRun(t *testing.T) {
	const run, work = "pieced", "train sft 0"
	undisturbed := newWorld(t)
	undisturbed.pieceSize = 2
	undisturbed.finish(pieced(run))
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
	stopped.pieceSize = 2
	for step := range 9 {
		ctx, meter := stopAt(t.Context(), work, step)
		if err := stopped.work(ctx, pieced(run), meter); !errors.Is(err, ErrInterrupted) {
			t.Fatalf("stopped at step %d: %v, want ErrInterrupted", step, err)
		}
		collect(stopped)
		state := stopped.latest(run, checkpoints.State)
		if n := len(stopped.records(state)); n != step || len(stopped.batches(state).Steps) != step {
			t.Fatalf("the state of step %d reads as %d records", step, n)
		}
		if n := len(state.Pieces(curves.File)); n != max(step-1, 0)/2 {
			t.Errorf("the state of step %d has %d pieces of records", step, n)
		}
	}
	stopped.finish(pieced(run))
	got := stopped.stateDigests(run)
	delete(got, "state 0")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-undisturbed +stopped):\n%s", diff)
	}

	killed := newWorld(t)
	killed.pieceSize = 2
	for step := 1; step < 9; step++ {
		ctx, cancel := context.WithCancel(t.Context())
		err := killed.work(ctx, pieced(run), func(w string, done, _ int) {
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
	killed.finish(pieced(run))
	if diff := cmp.Diff(want, killed.stateDigests(run)); diff != "" {
		t.Errorf("(-undisturbed +killed):\n%s", diff)
	}

	older := newWorld(t)
	ctx, meter := stopAt(t.Context(), work, 5)
	if err := older.work(ctx, pieced(run), meter); !errors.Is(err, ErrInterrupted) {
		t.Fatal(err)
	}
	older.pieceSize = 2
	older.finish(pieced(run))
	got = older.stateDigests(run)
	for _, name := range []string{"state 6", "state 8", "policy 9"} {
		if got[name] == "" || got[name] != want[name] {
			t.Errorf("%s after a state in one piece: %.12s, want %.12s", name, got[name], want[name])
		}
	}
}

// TestDamagedPieceIsWrittenAnew: all states name it, so the run begins the iteration again; it arrives at the same bits, and
// the piece is whole in what is published and kept.
func TestDamagedPieceIsWrittenAnew(t *testing.T) {
	w := newWorld(t)
	w.pieceSize = 2
	w.finish(pieced("undisturbed"))
	for _, kind := range []string{recordPieces, stepPieces, pairPieces} {
		t.Run(kind, func(t *testing.T) {
			spec := pieced("damaged-" + kind[:1] + kind[len(kind)-6:len(kind)-1])
			ctx, meter := stopAt(t.Context(), "train sft 0", 6)
			if err := w.work(ctx, spec, meter); !errors.Is(err, ErrInterrupted) {
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
			if !errors.Is(err, ErrInterrupted) || from != 0 {
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
