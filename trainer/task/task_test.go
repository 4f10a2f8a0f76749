package task

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/guide"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/trainer/curves"
)

// loadModel loads a tiny model of models/testdata, in float64 so that differences are exact enough to compare with.
func loadModel(t *testing.T, engine *tensor.Engine, name string) *models.Model {
	t.Helper()
	m, err := models.Load(t.Context(), engine, "../../models/testdata/"+name, models.Options{DType: tensor.Float64})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.SetTrainable(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	return m
}

// examples are sequences of different lengths over the 64 tokens of the tiny models.
func examples(n, offset int) []models.Sequence {
	rows := make([]models.Sequence, n)
	for i := range rows {
		for k := range 6 + (3*i+offset)%7 {
			rows[i].IDs = append(rows[i].IDs, int64(3+(7*k*k+11*i+5*offset)%61))
		}
		rows[i].PromptLen = 2 + i%3
	}
	return rows
}

// somePairs have reference log-probs away from the policy's and weights of mean 1.
func somePairs(n int) []Pair {
	chosen, rejected := examples(n, 0), examples(n, 2)
	pairs := make([]Pair, n)
	for i := range pairs {
		pairs[i] = Pair{
			Chosen: chosen[i], Rejected: rejected[i], RefChosen: -20 - float64(i), RefRejected: -19 + 2*float64(i),
			Weight: 2 * float64(i+1) / float64(n+1),
		}
	}
	return pairs
}

func newGuideModel(t *testing.T, engine *tensor.Engine, reduction string) *guide.Guide {
	t.Helper()
	g, err := guide.New(t.Context(), loadModel(t, engine, "gpt2"), loadModel(t, engine, "llama"), architecture.GuideConfig{
		LatentDim: 4, Pooling: architecture.PoolMean, PrefixTokens: 2, WordDropout: 0.5, Reduction: reduction,
	}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.SetTrainable(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	return g
}

// minimised is a task with a way to compute its loss that does not go through the task.
type minimised struct {
	name   string
	task   Task
	params []tensor.Named
	loss   func(s *tensor.Scope) float64
}

// objectives are all that a trainer minimises, over 5 examples.
func objectives(t *testing.T, engine *tensor.Engine) []minimised {
	t.Helper()
	const n, beta = 5, 0.3
	policy := loadModel(t, engine, "llama")
	pairs, rows := somePairs(n), examples(n, 1)
	formula := func(s *tensor.Scope) float64 {
		var sum float64
		for _, p := range pairs {
			both := []models.Sequence{p.Chosen, p.Rejected}
			logp := models.LogProbs(s, policy, both).Float64s()
			sum += p.Weight * math.Log1p(math.Exp(-beta*((logp[0]-logp[1])-(p.RefChosen-p.RefRejected))))
		}
		return sum / n
	}
	likelihood := func(s *tensor.Scope) float64 {
		var sum, tokens float64
		for i, row := range rows {
			sum -= models.LogProbs(s, policy, rows[i:i+1]).Float64s()[0]
			tokens += float64(len(row.Response()))
		}
		return sum / tokens
	}
	out := []minimised{
		{"pairs", &Pairs{Model: policy, Pairs: pairs, Objective: dpo(beta)}, policy.Params(), formula},
		{"sequences", &Sequences{Model: policy, Rows: rows}, policy.Params(), likelihood},
	}
	for _, reduction := range []string{architecture.ReduceMean, architecture.ReduceSum} {
		g := newGuideModel(t, engine, reduction)
		task := &Guide{Model: g, Chosen: examples(n, 0), Rejected: examples(n, 2), Seed: 1}
		out = append(out, minimised{"guide, " + reduction, task, g.Params(), func(s *tensor.Scope) float64 {
			all := slices.Concat(task.Chosen, task.Rejected)
			return g.Loss(s, all, dropoutSeed(1, 0, 0), models.Compute{}).Sum().Item() / n
		}})
	}
	return out
}

// gradients accumulates a batch cut into parts and returns the gradients of every parameter, which it zeroes.
func (o minimised) gradients(t *testing.T, engine *tensor.Engine, cut int) (grads [][]float64, sum Sums) {
	t.Helper()
	batch := make([]int, o.task.Len())
	for i := range batch {
		batch[i] = i
	}
	for from := 0; from < len(batch); from += cut {
		do(t, engine, func(s *tensor.Scope) error {
			got, err := o.task.Accumulate(s, batch[from:min(from+cut, len(batch))], batch, 0)
			sum.Loss += got.Loss
			sum.Pairs.Merge(got.Pairs)
			return err
		})
	}
	do(t, engine, func(s *tensor.Scope) error {
		return s.NoGrad(func(s *tensor.Scope) error {
			for _, p := range o.params {
				grads = append(grads, p.Tensor.Grad().Float64s())
				p.Tensor.Grad().Fill_(0)
			}
			return s.Err()
		})
	})
	return grads, sum
}

// TestGradientsOfObjectives: what a task leaves in the parameters is the gradient of its loss, along random directions
// through all weights.
func TestGradientsOfObjectives(t *testing.T) {
	engine := newEngine(t)
	for _, o := range objectives(t, engine) {
		t.Run(o.name, func(t *testing.T) {
			var at float64
			do(t, engine, func(s *tensor.Scope) error {
				return s.NoGrad(func(s *tensor.Scope) error { at = o.loss(s); return s.Err() })
			})
			grads, sum := o.gradients(t, engine, o.task.Len())
			within(t, "loss", sum.Loss, at, 1e-5)
			for direction := range 3 {
				slope := 0.0
				shift := func(h float64) (loss float64) {
					do(t, engine, func(s *tensor.Scope) error {
						return s.NoGrad(func(s *tensor.Scope) error {
							slope = 0
							for i, p := range o.params {
								d := models.Normal(s, uint64(direction), p.Name, 1, p.Tensor.Shape()...).To(tensor.Float64)
								for k, v := range d.Float64s() {
									slope += v * grads[i][k]
								}
								p.Tensor.Add_(d.MulScalar(h))
							}
							loss = o.loss(s)
							return s.Err()
						})
					})
					return loss
				}
				const h = 1e-5
				above := shift(h)
				below := shift(-2 * h)
				shift(h)
				within(t, fmt.Sprintf("slope along direction %d", direction), (above-below)/(2*h), slope, 1e-6+1e-5*math.Abs(slope))
			}
		})
	}
}

// TestMicroBatchesAddUp: however a batch is cut, its gradients are the same up to rounding. The guide's word dropout is
// drawn by a row's place in its part, so the guide is compared without.
func TestMicroBatchesAddUp(t *testing.T) {
	engine := newEngine(t)
	for _, o := range objectives(t, engine)[:2] {
		t.Run(o.name, func(t *testing.T) {
			want, whole := o.gradients(t, engine, o.task.Len())
			for _, cut := range []int{1, 2, 3} {
				got, sum := o.gradients(t, engine, cut)
				within(t, "loss", sum.Loss, whole.Loss, 1e-6)
				if sum.Pairs.Pairs != whole.Pairs.Pairs || sum.Pairs.Correct != whole.Pairs.Correct {
					t.Errorf("cut to %d: %+v, want %+v", cut, sum.Pairs, whole.Pairs)
				}
				for i := range want {
					for k := range want[i] {
						within(t, fmt.Sprintf("cut to %d: gradient of %s", cut, o.params[i].Name), got[i][k], want[i][k], 1e-9)
					}
				}
			}
		})
	}
}

// TestPairTaskReportsItsLoss: the curve's loss, computed outside autograd, is the one that is minimised.
func TestPairTaskReportsItsLoss(t *testing.T) {
	engine := newEngine(t)
	o := objectives(t, engine)[0]
	_, sum := o.gradients(t, engine, 2)
	do(t, engine, func(s *tensor.Scope) error {
		return s.NoGrad(func(s *tensor.Scope) error {
			within(t, "loss", sum.Loss, o.loss(s), 1e-5)
			return s.Err()
		})
	})
	within(t, "mean of objective.Stats.Loss", sum.Pairs.Loss/5, sum.Loss, 1e-12)
}

// TestReconstruction: the guide's figures are means over examples, so more examples of the same kind don't raise them.
func TestReconstruction(t *testing.T) {
	engine := newEngine(t)
	g := newGuideModel(t, engine, architecture.ReduceMean)
	chosen, rejected := examples(4, 0), examples(4, 1)
	few, err := (&Guide{Model: g, Chosen: chosen, Rejected: rejected}).Probe(t.Context(), engine, 4)
	if err != nil {
		t.Fatal(err)
	}
	many := &Guide{Model: g, Chosen: slices.Repeat(chosen, 20), Rejected: slices.Repeat(rejected, 20)} // more than one part of 32
	again, err := many.Probe(t.Context(), engine, 80)
	if err != nil {
		t.Fatal(err)
	}
	within(t, "by true latents", again.True, few.True, 1e-6)
	within(t, "by shuffled latents", again.Shuffled, few.Shuffled, 1e-6)
	within(t, "distance", again.Distance, few.Distance, 1e-6)
	within(t, "norm", again.Norm, few.Norm, 1e-6)
	if few.True == few.Shuffled || few.True <= 0 {
		t.Errorf("reconstruction %v by true latents and %v by shuffled ones", few.True, few.Shuffled)
	}
}

// TestProbe: the figures are those of the rows, whatever their number, and a guide that does not tell rows apart is seen.
func TestProbe(t *testing.T) {
	engine := newEngine(t)
	g := newGuideModel(t, engine, architecture.ReduceMean)
	task := &Guide{Model: g, Chosen: examples(40, 0), Rejected: examples(40, 2)}
	copy(task.Rejected[:10], task.Chosen[:10])
	p, err := task.Probe(t.Context(), engine, 64)
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for i, d := range p.Distances {
		sum += d
		if (i < 10) != (d == 0) {
			t.Errorf("pair %d: distance %v", i, d)
		}
	}
	within(t, "mean distance", p.Distance, sum/30, 1e-12)
	if p.Pairs != 40 || p.Identical != 0.25 || !(p.Norm > 0) || !(p.True > 0) {
		t.Errorf("probe %+v", p)
	}
	if first, err := task.Probe(t.Context(), engine, 12); err != nil || first.Pairs != 12 || len(first.Distances) != 12 {
		t.Errorf("of 12: %+v, %v", first, err)
	}
	text, err := p.JSON()
	if err != nil {
		t.Fatal(err)
	}
	again, err := curves.ReadProbe(text)
	if err != nil || again.Distance != p.Distance || len(again.Distances) != 40 {
		t.Errorf("read back: %+v, %v", again, err)
	}

	// a latent layer of zeros: all latents are equal, and the decoder cannot use them
	do(t, engine, func(s *tensor.Scope) error {
		return s.NoGrad(func(s *tensor.Scope) error {
			for _, w := range g.Params() {
				if w.Name == "latent.weight" {
					w.Tensor.Fill_(0)
				}
			}
			return s.Err()
		})
	})
	if p, err = task.Probe(t.Context(), engine, 64); err != nil || !strings.Contains(p.Collapsed(), "ignores the latent") {
		t.Errorf("a guide with equal latents: %+v, %v", p, err)
	}
	for want, p := range map[string]curves.Probe{
		"":              {Pairs: 2, True: 1, Shuffled: 1.1, Distance: 0.5, Norm: 2},
		"all but equal": {Pairs: 2, True: 1, Shuffled: 1.1, Distance: 1e-4, Norm: 2},
		"ignores":       {Pairs: 2, True: 1.1, Shuffled: 1.1, Distance: 0.5, Norm: 2},
	} {
		if got := p.Collapsed(); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%+v: %q, want %q", p, got, want)
		}
	}
	if nan := (curves.Probe{Pairs: 2, Shuffled: 1, Distance: math.NaN(), Norm: 1}); nan.Collapsed() == "" {
		t.Error("a distance that is no number is not seen")
	}
}
