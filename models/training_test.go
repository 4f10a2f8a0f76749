package models_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/tensor"
)

// trainingRows share prompts, and have a response of one token and one of none.
func trainingRows() []models.Sequence {
	a, b := []int64{5, 9, 2, 7, 7}, []int64{5, 9, 2}
	return []models.Sequence{
		models.Join(a, []int64{11, 3, 8, 20, 4, 31, 6, 1}), models.Join(b, []int64{40, 2}), models.Join(a, []int64{12}),
		models.Join(b, nil), models.Join(a, []int64{11, 3, 9}), models.Join(b, []int64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13}),
	}
}

// trained gives the log-probs that logProbs computes, and the gradients of a weighted sum of them.
func trained(
	t *testing.T, eng *tensor.Engine, m *models.Model, logProbs func(s *tensor.Scope) *tensor.Tensor,
) (logp []float64, grads [][]float64) {
	t.Helper()
	if err := m.SetTrainable(context.Background(), true); err != nil {
		t.Fatal(err)
	}
	do(t, eng, func(s *tensor.Scope) error {
		x := logProbs(s)
		logp = x.Float64s()
		x.Mul(s.FromFloat64([]float64{1, -0.5, 2, 1, -1, 0.7}, 6)).Sum().Backward()
		var params []*tensor.Tensor
		for _, p := range m.Trainable() {
			grads, params = append(grads, p.Tensor.Grad().Float64s()), append(params, p.Tensor)
		}
		tensor.FreeGrads(s, params)
		return nil
	})
	return logp, grads
}

// distance is |a-b|/|a|.
func distance(a, b []float64) float64 {
	var off, norm float64
	for i := range a {
		off, norm = off+(a[i]-b[i])*(a[i]-b[i]), norm+a[i]*a[i]
	}
	if len(a) != len(b) {
		return math.Inf(1)
	}
	return math.Sqrt(off / norm)
}

func furthest(a, b []float64) (off, largest float64) {
	for i := range a {
		off, largest = max(off, math.Abs(a[i]-b[i])), max(largest, math.Abs(a[i]))
	}
	if len(a) != len(b) {
		off = math.Inf(1)
	}
	return off, largest
}

// TrainLogProbs is LogProbs, with its gradients: in float64 for every family, and what the float32 kernels compute to
// their precision. Layers that are computed again give equal bits.
func TestTrainLogProbs(t *testing.T) {
	for _, name := range goldens {
		t.Run(name, func(t *testing.T) {
			eng, rows := newEngine(t, 2), trainingRows()
			compute := func(dtype tensor.DType, how models.Compute) ([]float64, [][]float64) {
				m := loadGolden(t, eng, name, dtype)
				defer func() { _ = m.Close(context.Background()) }()
				return trained(t, eng, m, func(s *tensor.Scope) *tensor.Tensor { return models.TrainLogProbs(s, m, rows, how) })
			}
			reference := loadGolden(t, eng, name, tensor.Float64)
			var names []string
			for _, p := range reference.Params() {
				names = append(names, p.Name)
			}
			want, wantGrads := trained(t, eng, reference, func(s *tensor.Scope) *tensor.Tensor {
				return models.LogProbs(s, reference, rows)
			})
			for _, test := range []struct {
				what            string
				dtype           tensor.DType
				how             models.Compute
				logp, gradients float64 // tolerances, relative to the largest and to the norm
			}{
				{"float64", tensor.Float64, models.Compute{}, 1e-12, 1e-11},
				{"float32", tensor.Float32, models.Compute{}, 1e-6, 1e-5},
				{"bfloat16", tensor.Float32, models.Compute{BFloat16: true}, 0.03, 0.2},
			} {
				got, gotGrads := compute(test.dtype, test.how)
				if off, largest := furthest(want, got); off > test.logp*largest {
					t.Errorf("%s: log-probs off by %g", test.what, off)
				}
				for i := range wantGrads {
					w, g := wantGrads[i], gotGrads[i]
					// A bias is held together with its matrix: of a key's, which hardly changes a softmax, little is left alone.
					if layer, ok := strings.CutSuffix(names[i], ".bias"); ok && names[i-1] == layer+".weight" {
						w, g = slices.Concat(wantGrads[i-1], w), slices.Concat(gotGrads[i-1], g)
					}
					if off := distance(w, g); !(off <= test.gradients) {
						t.Errorf("%s: gradient of %s off by %g of the layer's", test.what, names[i], off)
					}
				}
				test.how.Recompute = true
				again, againGrads := compute(test.dtype, test.how)
				if off, _ := furthest(got, again); off != 0 {
					t.Errorf("%s: computed again, log-probs are off by %g", test.what, off)
				}
				for i := range gotGrads {
					if off, _ := furthest(gotGrads[i], againGrads[i]); off != 0 {
						t.Errorf("%s: computed again, gradient %d is off by %g", test.what, i, off)
					}
				}
			}
		})
	}
}

// An adapter's gradients are those that LogProbs gives, its model's weights get none.
func TestTrainLogProbsOfAnAdapter(t *testing.T) {
	for _, how := range []models.Compute{{}, {Recompute: true}} {
		eng, rows := newEngine(t, 1), trainingRows()
		m := loadGolden(t, eng, "llama", tensor.Float64)
		err := m.AddAdapter(context.Background(), architecture.LoRA{Rank: 2, Alpha: 4, Targets: architecture.Modules{Names: []string{"q_proj", "down_proj"}}}, 3)
		if err != nil {
			t.Fatal(err)
		}
		do(t, eng, func(s *tensor.Scope) error { // B is 0 at first
			for _, p := range m.Trainable() {
				p.Tensor.Add_(s.Full(tensor.Float64, 0.01))
			}
			return nil
		})
		want, wantGrads := trained(t, eng, m, func(s *tensor.Scope) *tensor.Tensor {
			return models.LogProbs(s, m, rows)
		})
		got, gotGrads := trained(t, eng, m, func(s *tensor.Scope) *tensor.Tensor {
			return models.TrainLogProbs(s, m, rows, how)
		})
		if off, _ := furthest(want, got); off > 1e-11 {
			t.Errorf("%+v: log-probs off by %g", how, off)
		}
		for i := range wantGrads {
			if off, largest := furthest(wantGrads[i], gotGrads[i]); off > 1e-11*max(1, largest) || largest == 0 {
				t.Errorf("%+v: gradient %d off by %g, largest %g", how, i, off, largest)
			}
		}
	}
}

// A layout with a memory computes, of every token of every row, what whole sequences with one more key and value in front
// give, in local layers too.
func TestPackedBatchWithMemory(t *testing.T) {
	for _, name := range goldens {
		t.Run(name, func(t *testing.T) {
			eng := newEngine(t, 1)
			m := loadGolden(t, eng, name, tensor.Float64)
			cfg, rows := m.Config(), trainingRows()
			l, err := m.PackBatch(rows, models.PackingOptions{Whole: true, Memory: true})
			if err != nil {
				t.Fatal(err)
			}
			do(t, eng, func(s *tensor.Scope) error {
				memory := models.Normal(s, 4, "memory", 1, int64(len(rows)), int64(cfg.Layers), int64(cfg.KVHeads*cfg.HeadDim)).To(tensor.Float64)
				got, width := l.Hidden(s, l.Embed(s), memory).Float64s(), cfg.Hidden
				seen := 0
				for i, row := range rows {
					if len(row.Response()) == 0 {
						continue
					}
					emb := m.Embed(s.FromInt64(row.IDs, 1, int64(len(row.IDs))))
					want := m.HiddenWith(s, emb, memory.Narrow(0, int64(i), 1)).Float64s()
					if off, largest := furthest(want, got[seen:seen+len(want)]); off > 1e-11*largest {
						t.Errorf("row %d is off by %g", i, off)
					}
					seen += len(want)
				}
				if seen != len(got) || len(l.Tokens) != seen/width {
					t.Errorf("%d places, %d tokens; the rows have %d", len(got)/width, len(l.Tokens), seen/width)
				}
				return nil
			})
		})
	}
}

func TestTrainLogProbsRefuses(t *testing.T) {
	eng := newEngine(t, 1)
	m := loadGolden(t, eng, "llama", tensor.Float32)
	long := make([]int64, m.Config().MaxLength()+1)
	for name, row := range map[string]models.Sequence{
		"no prompt":        {IDs: []int64{1, 2}},
		"prompt too long":  {IDs: []int64{1, 2}, PromptLen: 3},
		"row too long":     {IDs: long, PromptLen: 1},
		"token outside":    {IDs: []int64{1, 64}, PromptLen: 1},
		"negative token":   {IDs: []int64{-1, 1}, PromptLen: 1},
		"outside response": {IDs: []int64{1, 2, 64}, PromptLen: 2},
	} {
		err := eng.Do(context.Background(), func(s *tensor.Scope) error {
			models.TrainLogProbs(s, m, []models.Sequence{{IDs: []int64{1, 2}, PromptLen: 1}, row}, models.Compute{})
			return nil
		})
		if !errors.Is(err, models.ErrSequence) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What goes through the model: a prompt once, and no response's last token.
func TestPackedTokens(t *testing.T) {
	if got, want := models.PackedTokens(trainingRows()), 5+7+0+2+3+1+12; got != want {
		t.Errorf("%d positions, want %d", got, want)
	}
}
