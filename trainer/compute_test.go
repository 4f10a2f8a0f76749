package trainer

import (
	"bytes"
	"math"
	"os"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/curves"
)

// sized is a task that has sizes and does nothing.
type sized struct {
	task
	sizes []int
}

func (t sized) size(i int) int { return t.sizes[i] }

// Micro-batches are the batch in its order, each within both bounds unless it is a single example, and none could take the
// next one's first example too.
func TestParts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfN(rapid.IntRange(0, 50), 1, 20).Draw(t, "sizes")
		batch := rapid.Permutation(rapid.Just(upTo(len(sizes))).Draw(t, "batch")).Draw(t, "order")
		p := &phase{
			task: sized{sizes: sizes}, micro: rapid.IntRange(1, 6).Draw(t, "micro"),
			microTokens: rapid.IntRange(1, 90).Draw(t, "tokens"),
		}
		parts := p.parts(batch)
		if !slices.Equal(slices.Concat(parts...), batch) {
			t.Fatalf("%v is not %v in parts", parts, batch)
		}
		fits := func(part []int) bool {
			sum := 0
			for _, i := range part {
				sum += sizes[i]
			}
			return len(part) <= p.micro && sum <= p.microTokens
		}
		for k, part := range parts {
			if len(part) > 1 && !fits(part) {
				t.Fatalf("%v does not fit", part)
			}
			if k+1 < len(parts) && fits(append(slices.Clone(part), parts[k+1][0])) {
				t.Fatalf("%v could take %d", part, parts[k+1][0])
			}
		}
	})
}

func upTo(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}

// floatModel is a tiny model in float32, as policies are trained.
func floatModel(t *testing.T, engine *tensor.Engine) *models.Model {
	t.Helper()
	m, err := models.Load(t.Context(), engine, "../models/testdata/llama", models.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.SetTrainable(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	return m
}

// weightsAfter trains 6 steps and gives all weights.
func weightsAfter(t *testing.T, how models.Compute, change ...func(*phase)) []float32 {
	t.Helper()
	engine := newEngine(t)
	model := floatModel(t, engine)
	p := newPhase(t, engine, model, change...)
	p.task = &pairTask{model: model, pairs: somePairs(7), objective: dpo(0.5), compute: how}
	if err := p.run(t.Context(), engine, 0); err != nil {
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
	slow := func(p *phase) { p.spec.LR, p.spec.Kind, p.spec.Eps = 1e-3, "adamw", 1e-2 }
	whole := weightsAfter(t, models.Compute{}, slow, func(p *phase) { p.micro = 3 })
	parts := weightsAfter(t, models.Compute{}, slow, func(p *phase) { p.microTokens = 1 })
	for i := range whole {
		if math.Abs(float64(whole[i]-parts[i])) > 1e-6 {
			t.Fatalf("weight %d is %v in one part, %v in parts of one", i, whole[i], parts[i])
		}
	}
}

// In bfloat16 an update of 5e-7 reaches the weights, because they are float32; rounded to bfloat16, next to none of them
// would have moved.
func TestBFloat16KeepsSmallUpdates(t *testing.T) {
	small := func(p *phase) { p.spec.LR, p.spec.Schedule, p.epochs = 5e-7, "constant", 1 }
	before := weightsAfter(t, models.Compute{}, func(p *phase) { p.epochs = 0 })
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
	p := newPhase(t, engine, model)
	p.task = &pairTask{model: model, pairs: somePairs(7), objective: dpo(0.5), compute: models.Compute{Recompute: true}}
	p.batch, p.micro, p.epochs = 1, 1, (steps+6)/7
	p.spec = schemas.Default().Optimizer
	p.spec.LR = 1e-6
	var live int
	var memory int64
	p.progress = func(done, _ int, _ *curves.Step) {
		switch {
		case done == 500:
			live, memory = engine.Live(), resident(t)
		case done > 500 && engine.Live() != live:
			t.Fatalf("%d tensors after %d steps, %d after 500", engine.Live(), done, live)
		}
	}
	if err := p.run(t.Context(), engine, 0); err != nil {
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
