package trainer_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models/safetensors"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer"
	"github.com/ldalign/ldalign/trainer/loop"
)

// joined starts ranks in this process, each with an engine of its own, as processes would be. When life, theirs, ends they
// leave at their next operation, without a word.
func joined(life context.Context, t *testing.T) func(context.Context, int) (*tensor.Group, func() error, error) {
	return started(t, time.Minute, func(engine *tensor.Engine, group *tensor.Group) error { return loop.Follow(life, engine, group) })
}

// started is joined with ranks that do something of their own, in a group that waits for them as long as patience.
func started(
	t *testing.T, patience time.Duration, follow func(*tensor.Engine, *tensor.Group) error,
) func(context.Context, int) (*tensor.Group, func() error, error) {
	return func(_ context.Context, n int) (*tensor.Group, func() error, error) {
		host, err := tensor.HostMeeting("127.0.0.1", patience)
		if err != nil {
			return nil, nil, err
		}
		var others errgroup.Group
		for rank := 1; rank < n; rank++ {
			engine := newEngine(t)
			others.Go(func() error {
				meeting, err := tensor.AttendMeeting("127.0.0.1", host.Port, "127.0.0.1", patience)
				if err != nil {
					return err
				}
				defer meeting.Close()
				group, err := meeting.Join(rank, n, tensor.CPU)
				if err != nil {
					return err
				}
				defer group.Close()
				return follow(engine, group)
			})
		}
		group, err := host.Join(0, n, tensor.CPU)
		if err != nil {
			return nil, nil, err
		}
		return group, func() error {
			defer host.Close()
			return others.Wait()
		}, nil
	}
}

// trainWith runs a trainer of a hand-made run with a number of ranks.
func (w *world) trainWith(ctx context.Context, spec schemas.Spec, ranks int, meter meterFunc) error {
	spec.Training.Ranks = ranks
	trainer := w.trainer(spec, meter)
	trainer.Ranks = joined(context.Background(), w.t)
	return trainer.Run(ctx)
}

// near compares the weights of two policies.
func (w *world) near(a, b checkpoints.Manifest, tolerance float64) {
	w.t.Helper()
	read := func(m checkpoints.Manifest) map[string][]byte {
		path, err := w.checkpoints.Local(w.t.Context(), m.Run, w.file(m, checkpoints.WeightsFile))
		if err != nil {
			w.t.Fatal(err)
		}
		file, err := safetensors.Open(path)
		if err != nil {
			w.t.Fatal(err)
		}
		defer file.Close()
		out := map[string][]byte{}
		for _, info := range file.Tensors() {
			x, err := file.Tensor(info.Name)
			if err != nil {
				w.t.Fatal(err)
			}
			out[info.Name] = append([]byte(nil), x.Data...)
		}
		return out
	}
	x, y := read(a), read(b)
	worst := 0.0
	for name, data := range x {
		for i := 0; i+4 <= len(data); i += 4 {
			worst = math.Max(worst, math.Abs(float64(float32At(data, i))-float64(float32At(y[name], i))))
		}
	}
	if len(x) == 0 || len(x) != len(y) || worst > tolerance {
		w.t.Errorf("%d and %d tensors, which differ by up to %v, allowed is %v", len(x), len(y), worst, tolerance)
	}
}

func float32At(data []byte, i int) float32 {
	return math.Float32frombits(uint32(data[i]) | uint32(data[i+1])<<8 | uint32(data[i+2])<<16 | uint32(data[i+3])<<24)
}

// ranked is a run that ranks share: 6 prompts in batches of 4, so that the last batch of an epoch is a small one.
func ranked(run string, change ...func(*schemas.Spec)) schemas.Spec {
	spec := handMade(run)
	spec.Training.Batch, spec.Training.Epochs, spec.Training.CheckpointEvery = 4, 2, 1
	spec.Optimizer.Eps = 1e-4 // an update that is not the gradient's sign alone
	for _, c := range change {
		c(&spec)
	}
	return spec
}

// TestRanksEqualOne: two and three ranks arrive at the weights of one within 1e-6, with all weights and an adapter, and by
// both optimizers; their records tell the same losses.
func TestRanksEqualOne(t *testing.T) {
	w := newWorld(t)
	for name, change := range map[string]func(*schemas.Spec){
		"adamw":   func(s *schemas.Spec) { s.Optimizer.Kind = "adamw" },
		"rmsprop": func(s *schemas.Spec) { s.Optimizer.Kind = "rmsprop" },
		"lora": func(s *schemas.Spec) {
			s.Training.LoRA = &schemas.LoRASpec{Rank: 2, Alpha: 4, Targets: schemas.AllLinear, Scaling: "lora"}
		},
	} {
		one := ranked("one-"+name, change)
		w.publishPrompts(one.Run, 0, 1, 2, 3, 4, 5)
		w.train(one)
		for _, n := range []int{2, 3} {
			spec := ranked("of-"+string(rune('0'+n))+"-"+name, change)
			w.publishPrompts(spec.Run, 0, 1, 2, 3, 4, 5)
			if err := w.trainWith(t.Context(), spec, n, silent); err != nil {
				t.Fatal(err)
			}
			w.near(w.policy(one.Run, 1), w.policy(spec.Run, 1), 1e-6)
			got, want := w.records(w.policy(spec.Run, 1)), w.records(w.policy(one.Run, 1))
			for k := range want {
				if math.Abs(got[k].Loss-want[k].Loss) > 1e-5 || got[k].Tokens != want[k].Tokens {
					t.Errorf("%s, %d ranks, step %d: loss %v over %d tokens, want %v over %d", name, n, k+1, got[k].Loss, got[k].Tokens,
						want[k].Loss, want[k].Tokens)
				}
			}
		}
	}
}

// TestRanksResume: interrupted and gone on with the same number of ranks, a run has the bits of one left alone; with
// another number it goes on too, for its states do not depend on it.
func TestRanksResume(t *testing.T) {
	w := newWorld(t)
	adamw := func(s *schemas.Spec) { s.Optimizer.Kind = "adamw" }
	whole := ranked("whole", adamw)
	w.publishPrompts(whole.Run, 0, 1, 2, 3, 4, 5)
	if err := w.trainWith(t.Context(), whole, 2, silent); err != nil {
		t.Fatal(err)
	}
	for run, then := range map[string]int{"stopped": 2, "fewer": 1} {
		spec := ranked(run, adamw)
		w.publishPrompts(run, 0, 1, 2, 3, 4, 5)
		ctx, meter := stopAt(t.Context(), "train sft 0", 2)
		if err := w.trainWith(ctx, spec, 2, meter); !errors.Is(err, trainer.ErrInterrupted) {
			t.Fatal(err)
		}
		if err := w.trainWith(t.Context(), spec, then, silent); err != nil {
			t.Fatal(err)
		}
		tolerance := 1e-6
		if then == 2 {
			tolerance = 0
		}
		w.near(w.policy(whole.Run, 1), w.policy(run, 1), tolerance)
	}
}

// TestRankThatDies: the others stop, the error says why and what to do, and the run goes on to the same bits.
func TestRankThatDies(t *testing.T) {
	w := newWorld(t)
	whole := ranked("alive")
	w.publishPrompts(whole.Run, 0, 1, 2, 3, 4, 5)
	if err := w.trainWith(t.Context(), whole, 2, silent); err != nil {
		t.Fatal(err)
	}
	spec := ranked("dies")
	w.publishPrompts(spec.Run, 0, 1, 2, 3, 4, 5)
	spec.Training.Ranks = 2
	life, die := context.WithCancel(t.Context())
	defer die()
	trainer := w.trainer(spec, func(work string, done, _ int) {
		if work == "train sft 0" && done == 2 {
			die() // before rank 0 commands the next step
		}
	})
	trainer.Ranks = joined(life, t)
	err := trainer.Run(t.Context())
	if !errors.Is(err, tensor.ErrGroup) || !strings.Contains(err.Error(), "run the same command again to resume from the last state") {
		t.Fatalf("got %v, want ErrGroup and what to do", err)
	}
	if err := w.trainWith(t.Context(), spec, 2, silent); err != nil {
		t.Fatal(err)
	}
	w.near(w.policy(whole.Run, 1), w.policy(spec.Run, 1), 0)
}

// TestRankThatHangs: one that joins and computes nothing is not waited for without end, and the error says what to do.
func TestRankThatHangs(t *testing.T) {
	w := newWorld(t)
	spec := ranked("hangs")
	spec.Training.Ranks = 2
	w.publishPrompts(spec.Run, 0, 1, 2, 3, 4, 5)
	trainer, done := w.trainer(spec, silent), make(chan struct{})
	trainer.Ranks = started(t, 3*time.Second, func(*tensor.Engine, *tensor.Group) error {
		<-done
		return nil
	})
	start := trainer.Ranks
	trainer.Ranks = func(ctx context.Context, n int) (*tensor.Group, func() error, error) {
		group, wait, err := start(ctx, n)
		return group, func() error {
			close(done)
			return wait()
		}, err
	}
	err := trainer.Run(t.Context())
	if !errors.Is(err, tensor.ErrGroup) || !strings.Contains(err.Error(), "too late") ||
		!strings.Contains(err.Error(), "the same command") {
		t.Fatalf("got %v, want ErrGroup, that a process was too late, and what to do", err)
	}
}

// TestRanksEndWithTheRun: when rank 0 cannot go on, for a store that refuses, the others end too.
func TestRanksEndWithTheRun(t *testing.T) {
	w := newWorld(t)
	spec := ranked("refused")
	w.publishPrompts(spec.Run, 0, 1, 2, 3, 4, 5)
	err := w.trainWith(t.Context(), spec, 2, func(work string, done, _ int) {
		if work == "train sft 0" && done == 1 {
			w.store.refuse.Store(true)
		}
	})
	if !errors.Is(err, errRefused) { // and goleak sees whether anybody was left
		t.Errorf("got %v, want the store's error", err)
	}
}

// TestTooManyRanks for the batch end before a step is made.
func TestTooManyRanks(t *testing.T) {
	w := newWorld(t)
	spec := ranked("many")
	w.publishPrompts(spec.Run, 0, 1)
	err := w.trainWith(t.Context(), spec, 3, silent)
	if err == nil || !strings.Contains(err.Error(), "cannot share a batch of 2") {
		t.Errorf("got %v, want an error that says so", err)
	}
}
