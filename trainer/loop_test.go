package trainer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/curves"
	"github.com/ldalign/ldalign/trainer/schedule"
)

// watched is a task that notes which examples it was given.
type watched struct {
	task
	parts  [][]int
	wholes [][]int
}

func (w *watched) accumulate(s *tensor.Scope, part, whole []int, step int) (stats, error) {
	w.parts, w.wholes = append(w.parts, slices.Clone(part)), append(w.wholes, slices.Clone(whole))
	return w.task.accumulate(s, part, whole, step)
}

func saveNothing(context.Context, checkpoints.Cursor) (func() error, error) {
	return func() error { return nil }, nil
}

// newPhase is a phase over 7 pairs of the tiny model, ready to run.
func newPhase(t *testing.T, engine *tensor.Engine, model *models.Model, change ...func(*phase)) *phase {
	t.Helper()
	p := &phase{
		name: "policy", seed: 1, batches: checkpoints.Batches{Pairs: strings.Split("abcdefg", "")},
		task:   &pairTask{model: model, pairs: somePairs(7), objective: dpo(0.5)},
		params: model.Params(), spec: schemas.Default().Optimizer, epochs: 2, batch: 3, micro: 2, microTokens: 1000,
		save:     saveNothing,
		progress: func(int, int, *curves.Step) {},
	}
	p.spec.LR = 1e-3
	for _, c := range change {
		c(p)
	}
	if err := p.prepare(t.Context(), engine); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.close(context.Background(), engine); err != nil {
			t.Error(err)
		}
	})
	return p
}

func weightsOf(t *testing.T, model *models.Model) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := model.WriteWeights(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestPhaseVisitsEveryPairOncePerEpoch, in the order of the plan, in parts of a micro-batch.
func TestPhaseVisitsEveryPairOncePerEpoch(t *testing.T) {
	engine := newEngine(t)
	var seen *watched
	p := newPhase(t, engine, loadModel(t, engine, "llama"), func(p *phase) {
		seen = &watched{task: p.task}
		p.task = seen
	})
	if err := p.run(t.Context(), engine, 0); err != nil {
		t.Fatal(err)
	}
	var want, wholes [][]int
	for epoch := range 2 {
		order := schedule.Permutation(7, 1, "policy", 0, epoch)
		for at := 0; at < 7; at += 3 {
			batch := order[at:min(at+3, 7)]
			for from := 0; from < len(batch); from += 2 {
				want, wholes = append(want, batch[from:min(from+2, len(batch))]), append(wholes, batch)
			}
		}
	}
	if diff := cmp.Diff(want, seen.parts); diff != "" {
		t.Errorf("parts (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(wholes, seen.wholes); diff != "" {
		t.Errorf("batches (-want +got):\n%s", diff)
	}
	for i, r := range p.records {
		rate := schedule.LearningRate(p.spec, p.spec.LR, i, 6)
		if r.Step != i+1 || r.Epoch != i/3 || r.LR != rate || r.Phase != "policy" {
			t.Errorf("record %d: %+v, want step %d of epoch %d at rate %v", i, r, i+1, i/3, rate)
		}
	}
	if len(p.records) != 6 {
		t.Errorf("%d records, want 6", len(p.records))
	}
}

// TestPhaseSaves: every few steps, with a cursor that says where the shuffle stands, and not after the last one, whose
// result is published anyway.
func TestPhaseSaves(t *testing.T) {
	engine := newEngine(t)
	var cursors []checkpoints.Cursor
	p := newPhase(t, engine, loadModel(t, engine, "llama"), func(p *phase) {
		p.every, p.iteration = 2, 5
		p.save = func(_ context.Context, c checkpoints.Cursor) (func() error, error) {
			return func() error { cursors = append(cursors, c); return nil }, nil
		}
	})
	if err := p.run(t.Context(), engine, 0); err != nil {
		t.Fatal(err)
	}
	pending := func(epoch, from, to int) (ids []string) {
		for _, i := range schedule.Permutation(7, 1, "policy", 5, epoch)[from:to] {
			ids = append(ids, p.batches.Pairs[i])
		}
		return ids
	}
	want := []checkpoints.Cursor{
		{Phase: "policy", Iteration: 5, Epoch: 0, Position: 6, Step: 2, Pending: pending(0, 6, 7)},
		{Phase: "policy", Iteration: 5, Epoch: 1, Position: 3, Step: 4, Pending: pending(1, 3, 6)},
	}
	if diff := cmp.Diff(want, cursors); diff != "" {
		t.Errorf("cursors (-want +got):\n%s", diff)
	}
}

// TestPhaseThatCannotSave: an interrupted trainer whose state could not be saved must not say that it was.
func TestPhaseThatCannotSave(t *testing.T) {
	engine := newEngine(t)
	full := errors.New("disk full")
	p := newPhase(t, engine, loadModel(t, engine, "llama"), func(p *phase) {
		p.save = func(context.Context, checkpoints.Cursor) (func() error, error) {
			return func() error { return full }, nil
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.run(ctx, engine, 0); !errors.Is(err, full) || errors.Is(err, ErrInterrupted) {
		t.Errorf("got %v, want the store's error and not ErrInterrupted", err)
	}
	if len(p.records) != 0 {
		t.Errorf("%d steps were made after the context had ended", len(p.records))
	}
}

// TestPhaseThatLostItsLease writes nothing: a state of its own would stop the trainer that has the run now.
func TestPhaseThatLostItsLease(t *testing.T) {
	engine := newEngine(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	p := newPhase(t, engine, loadModel(t, engine, "llama"), func(p *phase) {
		p.save = func(context.Context, checkpoints.Cursor) (func() error, error) {
			t.Error("a state was saved")
			return nil, nil
		}
		p.progress = func(done, _ int, _ *curves.Step) {
			if done == 2 {
				cancel(ErrLeaseLost)
			}
		}
	})
	if err := p.run(ctx, engine, 0); !errors.Is(err, ErrLeaseLost) || len(p.records) != 2 {
		t.Errorf("got %v after %d steps, want ErrLeaseLost after 2", err, len(p.records))
	}
}

// TestNotFiniteStops: a loss or gradient that is not finite ends the phase, names the step, and leaves the weights and the
// optimizer as they were before that step.
func TestNotFiniteStops(t *testing.T) {
	poisoned := schedule.Permutation(7, 1, "policy", 0, 0)[4]
	poison := func(value float64) func(*phase) {
		return func(p *phase) { p.task.(*pairTask).pairs[poisoned].refChosen = value }
	}
	tests := []struct {
		name   string
		change func(*phase)
		steps  int
		pair   int // that the error names; -1 for any
	}{
		{"reference log-prob NaN", poison(math.NaN()), 1, poisoned},
		{"reference log-prob infinite", poison(math.Inf(1)), 1, poisoned},
		{"beta beyond float32", func(p *phase) { p.task.(*pairTask).objective.Beta = 1e300 }, 0, -1},
		{"weight infinite", func(p *phase) { p.task.(*pairTask).pairs[0].weight = math.Inf(1) }, -1, 0},
		{"not clipped", func(p *phase) { poison(math.NaN())(p); p.spec.Clip = 0 }, 1, poisoned},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			engine := newEngine(t)
			model := loadModel(t, engine, "llama")
			var before []byte
			var step uint64
			p := newPhase(t, engine, model, test.change, func(p *phase) {
				p.progress = func(done, _ int, _ *curves.Step) { before, step = weightsOf(t, model), uint64(done) }
				p.batches.Pairs = nil
				for i := range 7 {
					p.batches.Pairs = append(p.batches.Pairs, fmt.Sprint("pair-", i))
				}
			})
			err := p.run(t.Context(), engine, 0)
			if err == nil || !strings.Contains(err.Error(), "not finite") {
				t.Fatalf("got %v, want an error about what is not finite", err)
			}
			if test.pair >= 0 && !strings.Contains(err.Error(), fmt.Sprint("pair-", test.pair)) {
				t.Errorf("%v does not name pair-%d", err, test.pair)
			}
			if test.steps >= 0 && len(p.records) != test.steps {
				t.Errorf("%d steps were made, want %d", len(p.records), test.steps)
			}
			if !bytes.Equal(before, weightsOf(t, model)) {
				t.Error("the weights have changed")
			}
			do(t, engine, func(s *tensor.Scope) error {
				if got := p.optimizer.State()[0].Tensor.Int64s()[0]; got != int64(step) {
					t.Errorf("the optimizer is at step %d, want %d", got, step)
				}
				return s.Err()
			})
		})
	}
}

// TestClip: the recorded norm is the one before clipping, and a clip below it makes another step.
func TestClip(t *testing.T) {
	engine := newEngine(t)
	norms := map[float64]float64{}
	weights := map[float64][]byte{}
	for _, clip := range []float64{0, 1e9, 1e-3} {
		model := loadModel(t, engine, "llama")
		p := newPhase(t, engine, model, func(p *phase) { p.spec.Clip, p.epochs, p.spec.Eps = clip, 1, 1e-3 })
		if err := p.run(t.Context(), engine, 0); err != nil {
			t.Fatal(err)
		}
		norms[clip], weights[clip] = p.records[0].GradNorm, weightsOf(t, model)
	}
	if norms[0] != norms[1e9] || norms[0] != norms[1e-3] || norms[0] < 1e-3 {
		t.Errorf("norms before clipping differ: %v", norms)
	}
	if !bytes.Equal(weights[0], weights[1e9]) || bytes.Equal(weights[0], weights[1e-3]) {
		t.Error("a clip above the norm changed the step, or one below it did not")
	}
}

// TestPhaseResumes: optimizer state, weights and records of a phase that stopped make one that goes on with the same bits.
func TestPhaseResumes(t *testing.T) {
	for _, kind := range []string{"rmsprop", "adamw"} {
		t.Run(kind, func(t *testing.T) {
			engine := newEngine(t)
			optimizer := func(p *phase) { p.spec.Kind, p.spec.WeightDecay = kind, 0.01 }
			whole := loadModel(t, engine, "llama")
			undisturbed := newPhase(t, engine, whole, optimizer)
			if err := undisturbed.run(t.Context(), engine, 0); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			first := loadModel(t, engine, "llama")
			stopped := newPhase(t, engine, first, optimizer, func(p *phase) {
				p.progress = func(done, _ int, _ *curves.Step) {
					if done == 4 {
						cancel()
					}
				}
			})
			if err := stopped.run(ctx, engine, 0); !errors.Is(err, ErrInterrupted) {
				t.Fatal(err)
			}
			second := loadModel(t, engine, "llama")
			goesOn := newPhase(t, engine, second, optimizer)
			goesOn.records = stopped.records
			do(t, engine, func(s *tensor.Scope) error {
				return s.NoGrad(func(s *tensor.Scope) error {
					for i, p := range second.Params() {
						p.Tensor.Copy_(first.Params()[i].Tensor)
					}
					return goesOn.optimizer.LoadState(s, stopped.optimizer.State())
				})
			})
			if err := goesOn.run(t.Context(), engine, 4); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(weightsOf(t, whole), weightsOf(t, second)) {
				t.Error("weights differ from the undisturbed phase's")
			}
			if diff := cmp.Diff(undisturbed.records, goesOn.records); diff != "" {
				t.Errorf("records (-undisturbed +resumed):\n%s", diff)
			}
		})
	}
}
