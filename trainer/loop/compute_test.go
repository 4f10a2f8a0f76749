package loop

import (
	"bytes"
	"math"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/task"
)

// floatModel is a tiny model in float32, as policies are trained.
func floatModel(t *testing.T, engine *tensor.Engine) *models.Model {
	t.Helper()
	m, err := models.Load(t.Context(), engine, "../../models/testdata/llama", models.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.SetTrainable(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	return m
}

// weightsAfter trains 6 steps and gives all weights.
func weightsAfter(t *testing.T, how models.Compute, change ...func(*Config)) []float32 {
	t.Helper()
	engine := newEngine(t)
	model := floatModel(t, engine)
	p := newPhase(t, engine, model, append(change, func(c *Config) {
		c.Task = &task.Pairs{Model: model, Pairs: somePairs(7), Objective: dpo(0.5), Compute: how}
	})...)
	if err := p.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	var all []float32
	do(t, engine, func(*tensor.Scope) error {
		for _, named := range model.Params() {
			all = append(all, named.Tensor.Float32s()...)
		}
		return nil
	})
	return all
}

// Gradient checkpointing changes no bit, and so may be switched on when a run goes on.
func TestGradientCheckpointingIsExact(t *testing.T) {
	if !slices.Equal(weightsAfter(t, models.Compute{}), weightsAfter(t, models.Compute{Recompute: true})) {
		t.Error("other weights")
	}
}

// The size of micro-batches changes the order of sums and nothing else.
func TestWeightsDoNotDependOnMicroBatches(t *testing.T) {
	slow := func(c *Config) {
		c.Plan.Optimizer.LR, c.Plan.Optimizer.Kind, c.Plan.Optimizer.Eps = 1e-3, "adamw", 1e-2
	}
	whole := weightsAfter(t, models.Compute{}, slow, func(c *Config) { c.Plan.Micro = 3 })
	parts := weightsAfter(t, models.Compute{}, slow, func(c *Config) { c.Plan.MicroTokens = 1 })
	for i := range whole {
		if math.Abs(float64(whole[i]-parts[i])) > 1e-6 {
			t.Fatalf("weight %d is %v in one part, %v in parts of one", i, whole[i], parts[i])
		}
	}
}

// In bfloat16 an update of 5e-7 reaches the weights, because they are float32; rounded to bfloat16, next to none of them
// would have moved.
func TestBFloat16KeepsSmallUpdates(t *testing.T) {
	small := func(c *Config) { c.Plan.Optimizer.LR, c.Plan.Optimizer.Schedule, c.Plan.Epochs = 5e-7, "constant", 1 }
	before := weightsAfter(t, models.Compute{}, func(c *Config) { c.Plan.Epochs = 0 })
	moved := func(after []float32, rounded bool) (share float64) {
		n := 0
		for i := range before {
			a, b := before[i], after[i]
			if rounded {
				a, b = bfloat16(a), bfloat16(b)
			}
			if a != b {
				n++
			}
		}
		return float64(n) / float64(len(before))
	}
	narrow, wide := weightsAfter(t, models.Compute{BFloat16: true}, small), weightsAfter(t, models.Compute{}, small)
	if a, b := moved(narrow, false), moved(wide, false); a < 0.9*b || b < 0.5 {
		t.Errorf("%.0f %% of the weights moved in bfloat16, %.0f %% in float32", 100*a, 100*b)
	}
	if lost := moved(narrow, true); lost > 0.05 {
		t.Errorf("%.0f %% of the weights would have moved in bfloat16 themselves: the test shows nothing", 100*lost)
	}
}

// bfloat16 is x rounded to bfloat16.
func bfloat16(x float32) float32 {
	bits := math.Float32bits(x)
	return math.Float32frombits((bits + 0x7fff + bits>>16&1) &^ 0xffff)
}

// Five thousand steps leave as many tensors as the first ones, and no more memory.
func TestFlatMemoryOverSteps(t *testing.T) {
	const steps, allowed = 5000, 24 << 20
	engine := newEngine(t)
	model := floatModel(t, engine)
	var live int
	var memory int64
	p := newPhase(t, engine, model, func(c *Config) {
		c.Task = &task.Pairs{Model: model, Pairs: somePairs(7), Objective: dpo(0.5), Compute: models.Compute{Recompute: true}}
		c.Plan.Batch, c.Plan.Micro, c.Plan.Epochs = 1, 1, (steps+6)/7
		c.Plan.Optimizer = schemas.Default().Optimizer
		c.Plan.Optimizer.LR = 1e-6
		c.Observer = observer(func(done, _ int) {
			switch {
			case done == 500:
				live, memory = engine.Live(), resident(t)
			case done > 500 && engine.Live() != live:
				t.Fatalf("%d tensors after %d steps, %d after 500", engine.Live(), done, live)
			}
		})
	})
	if err := p.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(p.records) < steps || live == 0 {
		t.Fatalf("%d steps, %d tensors", len(p.records), live)
	}
	if grown := resident(t) - memory; grown > allowed {
		t.Errorf("%d steps hold %d MiB more than the first 500", len(p.records), grown>>20)
	}
}

// resident is the memory that the process holds, in bytes.
func resident(t *testing.T) int64 {
	t.Helper()
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseInt(string(bytes.Fields(data)[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}
