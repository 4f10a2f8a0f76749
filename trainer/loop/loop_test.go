package loop

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
	"github.com/ldalign/ldalign/trainer/activity"
	"github.com/ldalign/ldalign/trainer/curves"
	"github.com/ldalign/ldalign/trainer/schedule"
	"github.com/ldalign/ldalign/trainer/task"
)

// watched is a task that notes which examples it was given.
type watched struct {
	task.Task
	parts  [][]int
	wholes [][]int
}

func (w *watched) Accumulate(s *tensor.Scope, part, whole []int, step int) (task.Sums, error) {
	w.parts, w.wholes = append(w.parts, slices.Clone(part)), append(w.wholes, slices.Clone(whole))
	return w.Task.Accumulate(s, part, whole, step)
}

// saver is called with cursors.
type saver func(at checkpoints.Cursor) (commit func() error, err error)

func (f saver) Save(_ context.Context, _ *Phase, at checkpoints.Cursor) (func() error, error) {
	return f(at)
}

func saveNothing(checkpoints.Cursor) (func() error, error) { return func() error { return nil }, nil }

// observer is called as the phase begins and after each step.
type observer func(done, total int)

func (f observer) Begins(_ []curves.Step, done, total int) { f(done, total) }
func (f observer) Made(_ *curves.Step, done, total int)    { f(done, total) }

// newPhase is a phase over 7 pairs of the tiny model, ready to run.
func newPhase(t *testing.T, engine *tensor.Engine, model *models.Model, change ...func(*Config)) *Phase {
	t.Helper()
	c := Config{
		Plan: schedule.Plan{
			Phase: schedule.Policy, Seed: 1, Optimizer: schemas.Default().Optimizer, Epochs: 2, Batch: 3, Micro: 2, MicroTokens: 1000,
		},
		Engine: engine, Batches: checkpoints.Batches{Pairs: strings.Split("abcdefg", "")},
		Task:   &task.Pairs{Model: model, Pairs: somePairs(7), Objective: dpo(0.5)},
		Params: model.Params(), Saver: saver(saveNothing),
	}
	c.Plan.Optimizer.LR = 1e-3
	for _, f := range change {
		f(&c)
	}
	p, err := New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(context.Background()); err != nil {
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
	p := newPhase(t, engine, loadModel(t, engine, "llama"), func(c *Config) {
		seen = &watched{Task: c.Task}
		c.Task = seen
	})
	if err := p.Run(t.Context()); err != nil {
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
		rate := schedule.LearningRate(p.Plan.Optimizer, p.Plan.Optimizer.LR, i, 6)
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
	p := newPhase(t, engine, loadModel(t, engine, "llama"), func(c *Config) {
		c.Plan.Every, c.Plan.Iteration = 2, 5
		c.Saver = saver(func(at checkpoints.Cursor) (func() error, error) {
			return func() error { cursors = append(cursors, at); return nil }, nil
		})
	})
	if err := p.Run(t.Context()); err != nil {
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
	p := newPhase(t, engine, loadModel(t, engine, "llama"), func(c *Config) {
		c.Saver = saver(func(checkpoints.Cursor) (func() error, error) {
			return func() error { return full }, nil
		})
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Run(ctx); !errors.Is(err, full) || errors.Is(err, activity.ErrInterrupted) {
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
	p := newPhase(t, engine, loadModel(t, engine, "llama"), func(c *Config) {
		c.Saver = saver(func(checkpoints.Cursor) (func() error, error) {
			t.Error("a state was saved")
			return nil, nil
		})
		c.Observer = observer(func(done, _ int) {
			if done == 2 {
				cancel(ErrLeaseLost)
			}
		})
	})
	if err := p.Run(ctx); !errors.Is(err, ErrLeaseLost) || len(p.records) != 2 {
		t.Errorf("got %v after %d steps, want ErrLeaseLost after 2", err, len(p.records))
	}
}

// doubt is a lease that becomes doubtful after a step. confirmed is what Confirm then returns.
type doubt struct {
	doubtful  bool
	confirmed error
}

func (d *doubt) Doubtful() bool { return d.doubtful }

func (d *doubt) Confirm(context.Context) error {
	d.doubtful = false
	return d.confirmed
}

// TestPhaseThatDoubtsItsLease saves its state and goes on when the lease is confirmed, and ends when another trainer has it.
func TestPhaseThatDoubtsItsLease(t *testing.T) {
	engine := newEngine(t)
	for _, confirmed := range []error{nil, ErrLeaseLost} {
		var saved []int
		lease := &doubt{confirmed: confirmed}
		p := newPhase(t, engine, loadModel(t, engine, "llama"), func(c *Config) {
			c.Lease = lease
			c.Saver = saver(func(at checkpoints.Cursor) (func() error, error) {
				saved = append(saved, at.Step)
				return func() error { return nil }, nil
			})
			c.Observer = observer(func(done, _ int) { lease.doubtful = done == 2 })
		})
		steps := p.all()
		if confirmed != nil {
			steps = 2
		}
		if err := p.Run(t.Context()); !errors.Is(err, confirmed) || len(p.records) != steps {
			t.Errorf("got %v after %d steps, want %v after %d", err, len(p.records), confirmed, steps)
		}
		if !slices.Equal(saved, []int{2}) {
			t.Errorf("states of steps %v were saved, want 2", saved)
		}
	}
}

// TestNotFiniteStops: a loss or gradient that is not finite ends the phase, names the step, and leaves the weights and the
// optimizer as they were before that step.
func TestNotFiniteStops(t *testing.T) {
	poisoned := schedule.Permutation(7, 1, "policy", 0, 0)[4]
	poison := func(value float64) func(*Config) {
		return func(c *Config) { c.Task.(*task.Pairs).Pairs[poisoned].RefChosen = value }
	}
	tests := []struct {
		name   string
		change func(*Config)
		steps  int
		pair   int // that the error names; -1 for any
	}{
		{"reference log-prob NaN", poison(math.NaN()), 1, poisoned},
		{"reference log-prob infinite", poison(math.Inf(1)), 1, poisoned},
		{"beta beyond float32", func(c *Config) { c.Task.(*task.Pairs).Objective.Beta = 1e300 }, 0, -1},
		{"weight infinite", func(c *Config) { c.Task.(*task.Pairs).Pairs[0].Weight = math.Inf(1) }, -1, 0},
		{"not clipped", func(c *Config) { poison(math.NaN())(c); c.Plan.Optimizer.Clip = 0 }, 1, poisoned},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			engine := newEngine(t)
			model := loadModel(t, engine, "llama")
			var before []byte
			var step uint64
			p := newPhase(t, engine, model, test.change, func(c *Config) {
				c.Observer = observer(func(done, _ int) { before, step = weightsOf(t, model), uint64(done) })
				c.Batches.Pairs = nil
				for i := range 7 {
					c.Batches.Pairs = append(c.Batches.Pairs, fmt.Sprint("pair-", i))
				}
			})
			err := p.Run(t.Context())
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
		p := newPhase(t, engine, model, func(c *Config) {
			c.Plan.Optimizer.Clip, c.Plan.Epochs, c.Plan.Optimizer.Eps = clip, 1, 1e-3
		})
		if err := p.Run(t.Context()); err != nil {
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
			optimizer := func(c *Config) { c.Plan.Optimizer.Kind, c.Plan.Optimizer.WeightDecay = kind, 0.01 }
			whole := loadModel(t, engine, "llama")
			undisturbed := newPhase(t, engine, whole, optimizer)
			if err := undisturbed.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			first := loadModel(t, engine, "llama")
			stopped := newPhase(t, engine, first, optimizer, func(c *Config) {
				c.Observer = observer(func(done, _ int) {
					if done == 4 {
						cancel()
					}
				})
			})
			if err := stopped.Run(ctx); !errors.Is(err, activity.ErrInterrupted) {
				t.Fatal(err)
			}
			second := loadModel(t, engine, "llama")
			goesOn := newPhase(t, engine, second, optimizer)
			goesOn.records, goesOn.from = stopped.records, 4
			do(t, engine, func(s *tensor.Scope) error {
				return s.NoGrad(func(s *tensor.Scope) error {
					for i, p := range second.Params() {
						p.Tensor.Copy_(first.Params()[i].Tensor)
					}
					return goesOn.optimizer.LoadState(s, stopped.optimizer.State())
				})
			})
			if err := goesOn.Run(t.Context()); err != nil {
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
