package trainer_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/ledger"
	"github.com/ldalign/ldalign/trainer"
)

// paced is a run by the streaming schedule of 30 pairs an iteration, in batches of 4 and two epochs, of which no more than 8
// may be ahead of the trainer.
func paced(run string, change ...func(*schemas.Spec)) schemas.Spec {
	return testSpec(run, append([]func(*schemas.Spec){func(s *schemas.Spec) {
		s.Objective.Kind, s.Training.Schedule, s.Training.Epochs = "spin", "streaming", 2
		s.Data.Limit, s.Streams.MaxInFlight, s.Training.CheckpointEvery = 30, 8, 1
	}}, change...)...)
}

// rested waits until nothing comes any more that the trainer has not made room for: the prompter rests, or all 30 prompts
// of the iteration are there, and every prompt is answered or dead. It returns the number of prompts.
func (w *world) rested(run string, iteration uint32) int {
	w.t.Helper()
	for {
		counts, err := ledger.Counts(w.t.Context(), w.streams, run)
		if err != nil {
			w.t.Fatal(err)
		}
		workers, err := w.streams.Workers(w.t.Context(), run)
		if err != nil {
			w.t.Fatal(err)
		}
		rests := slices.ContainsFunc(workers, func(x streams.Worker) bool { return x.State == streams.StateBackPressure })
		for _, c := range counts {
			if c.Iteration == iteration && c.Pairs+c.Dead >= c.Prompts && (rests || c.Prompts == 30) {
				return c.Prompts
			}
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-w.t.Context().Done():
			w.t.Fatal(w.t.Context().Err())
		}
	}
}

// TestAheadOfASlowTrainer: a trainer that is slower than anything before it, for it begins a step only when all others have
// nothing more to do, has no more than streams.max_in_flight pairs before it, ever; it is not waited for in vain, and trains
// every pair once an epoch.
func TestAheadOfASlowTrainer(t *testing.T) {
	w := newWorld(t)
	spec := paced("slow")
	iteration, most := uint32(0), 0
	err := w.work(t.Context(), spec, func(work string, done, _ int) {
		if work == "train spin 1" {
			iteration = 1
		}
		if work != "train spin 0" && work != "train spin 1" || done > 7 {
			return
		}
		before := w.rested(spec.Run, iteration) - 4*done
		most = max(most, before)
		if before > 8 {
			t.Errorf("iteration %d, step %d: %d pairs are before the trainer", iteration, done, before)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if most < 4 {
		t.Errorf("at most %d pairs were ever before the trainer", most)
	}
	w.trainedAll(spec)
}

// trainedAll checks that each pair of a run of two iterations is trained once in each of its two epochs.
func (w *world) trainedAll(spec schemas.Spec) {
	w.t.Helper()
	for i := range uint32(2) {
		b := w.batches(w.policy(spec.Run, i+1))
		times := map[int]int{}
		for _, s := range b.Steps {
			for _, k := range s.Pairs {
				times[k]++
			}
		}
		if len(b.Pairs) != 30 || len(times) != 30 {
			w.t.Errorf("iteration %d: %d pairs, %d of them trained, want 30", i, len(b.Pairs), len(times))
		}
		for k, n := range times {
			if n != 2 {
				w.t.Errorf("iteration %d: pair %d is trained %d times, want 2", i, k, n)
			}
		}
	}
}

// TestAheadOverDeaths: prompter and trainer die together at every step, as the trainer's state before it is the last that
// was saved; whoever comes next goes on by what the log has. On that log a trainer without a bound makes the same bits.
func TestAheadOverDeaths(t *testing.T) {
	w := newWorld(t)
	spec := paced("dying", func(s *schemas.Spec) { s.Training.CheckpointEvery = 3 })
	for _, work := range []string{"train spin 0", "train spin 1"} {
		for step := 1; step <= 9; step += 2 {
			ctx, cancel := context.WithCancel(t.Context())
			err := w.work(ctx, spec, func(name string, done, _ int) {
				if name == work && done == step {
					w.store.refuse.Store(true) // so that it leaves what a killed one does
					cancel()
				}
			})
			cancel()
			w.store.refuse.Store(false)
			if err == nil || errors.Is(err, trainer.ErrInterrupted) {
				t.Fatalf("%s %d: got %v, want a trainer that is cut off", work, step, err)
			}
		}
	}
	w.finish(spec)
	w.trainedAll(spec)
	want := w.results(spec.Run)

	spec.Streams.MaxInFlight = 0
	w.root = filepath.Join(t.TempDir(), "store")
	w.reopen()
	w.train(spec)
	if diff := cmp.Diff(want, w.results(spec.Run)); diff != "" {
		t.Errorf("(-bounded +unbounded, on the same log):\n%s", diff)
	}
}

// TestAheadOfALetter: pairs that die, and such as the trainer skips, make room as those do that it trains, more of them than
// may be ahead; of the prompts that are left, the last batch is a part of one.
func TestAheadOfALetter(t *testing.T) {
	w := newWorld(t)
	spec := paced("letters", func(s *schemas.Spec) {
		s.Iterations, s.Objective.Kind = 1, "sft"
		s.Data.Overlong, s.Data.MaxPromptTokens, s.Data.MaxResponseTokens = "reject", 20, 11
	})
	w.finish(spec)
	b := w.batches(w.policy(spec.Run, 1))
	t.Logf("%d pairs are trained, %d skipped", len(b.Pairs), len(b.Skipped))
	if len(b.Skipped) <= 8 || len(b.Pairs)+len(b.Skipped) != 30 || len(b.Pairs)%4 == 0 {
		t.Errorf("%d pairs are trained and %d skipped, want 30 together, more than 8 of them skipped, and a last batch of a part",
			len(b.Pairs), len(b.Skipped))
	}

	spec = paced("dead", func(s *schemas.Spec) {
		s.Iterations, s.Data.Overlong, s.Data.MaxPromptTokens, s.Data.MaxResponseTokens = 1, "reject", 20, 11
	})
	w.finish(spec)
	b = w.batches(w.policy(spec.Run, 1))
	dead := len(w.letters(spec.Run))
	t.Logf("%d pairs are trained, %d dead", len(b.Pairs), dead)
	if dead <= 8 || len(b.Pairs)+dead != 30 {
		t.Errorf("%d pairs are trained and %d dead, want 30 together, more than 8 of them dead", len(b.Pairs), dead)
	}
}

// TestAheadOfAnotherMind: the bound is left out of the digest, so that of the trainer's spec may be another one than that of
// the prompter's. Neither waits for the other for ever.
func TestAheadOfAnotherMind(t *testing.T) {
	for run, ahead := range map[string]int{"none": 0, "more": 1000} {
		w := newWorld(t)
		spec := paced(run, func(s *schemas.Spec) { s.Iterations = 1 })
		stages, stop := context.WithCancel(t.Context())
		group, stages := errgroup.WithContext(stages)
		w.startStages(stages, group, spec)
		spec.Streams.MaxInFlight = ahead
		err := w.trainer(spec, silent).Run(stages)
		stop()
		if err = errors.Join(err, group.Wait()); err != nil {
			t.Fatalf("%s: %v", run, err)
		}
		if b := w.batches(w.policy(run, 1)); len(b.Pairs) != 30 {
			t.Errorf("%s: %d pairs are trained, want 30", run, len(b.Pairs))
		}
	}
}

// letters are the dead letters of a run.
func (w *world) letters(run string) []events.Message {
	w.t.Helper()
	var out []events.Message
	err := w.streams.Read(w.t.Context(), schemas.DeadLetters, run, streams.AllIterations, 0, func(r streams.Received) error {
		out = append(out, r.Message)
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// TestAheadOfAGuide: a guide is made of the whole first iteration, so that is not bounded; the next one is.
func TestAheadOfAGuide(t *testing.T) {
	w := newWorld(t)
	spec := paced("guided", func(s *schemas.Spec) { s.Objective.Kind, s.Objective.Normaliser = "ldalign", "running" })
	w.finish(spec)
	w.trainedAll(spec)
	told := 0
	err := w.streams.Read(t.Context(), schemas.Control, spec.Run, 1, 0, func(r streams.Received) error {
		if c := r.Message.(*events.Control); c.GetKind() == events.ControlTrainerProgress {
			told++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if told < 4 { // of 30 pairs, 8 may be ahead: at 8, at 16, at 22 the latest, and at the end
		t.Errorf("what is taken of the second iteration was told %d times, want it told on the way", told)
	}
}
