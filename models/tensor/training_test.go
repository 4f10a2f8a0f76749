package tensor_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/ldalign/ldalign/models/tensor"
)

// trained is an operation of training beside the plain operations that define it. x are its inputs, all of them leaves.
type trained struct {
	name   string
	shapes [][]int64
	ours   func(s *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor
	plain  func(s *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor
}

// attention over three sequences of 4, 3 and 300 rows; the second continues the first two rows of the first.
var packedSegments = []tensor.Segment{{Length: 4}, {Prefix: 0, PrefixLength: 2, Length: 3}, {Length: 300}}

func plainAttention(s *tensor.Scope, x []*tensor.Tensor, window int64) *tensor.Tensor {
	sequence := func(t *tensor.Tensor, from ...int64) *tensor.Tensor { // pairs of start and length
		var parts []*tensor.Tensor
		for i := 0; i < len(from); i += 2 {
			parts = append(parts, t.Narrow(0, from[i], from[i+1]))
		}
		return s.Cat(0, parts...).Transpose(0, 1).Unsqueeze(0)
	}
	attend := func(from ...int64) *tensor.Tensor {
		q, k, v := sequence(x[0], from...), sequence(x[1], from...), sequence(x[2], from...)
		n := q.Size(2)
		mask := s.Ones(tensor.Float32, n, n).Tril(0)
		if window > 0 {
			mask = mask.Triu(1 - window)
		}
		out := tensor.SDPA(q, k.RepeatInterleave(2, 1), v.RepeatInterleave(2, 1), mask.To(tensor.Bool), false, 0.4)
		return out.Squeeze(0).Transpose(0, 1)
	}
	return s.Cat(0, attend(0, 4), attend(0, 2, 4, 3).Narrow(0, 2, 3), attend(7, 300))
}

func trainedOperations() []trained {
	ids := func(s *tensor.Scope) *tensor.Tensor { return s.FromInt64([]int64{3, 0, 3, 5}, 4) }
	tables := func(s *tensor.Scope, d tensor.DType) (cos, sin *tensor.Tensor) {
		var c, r []float64
		for p := range 6 {
			for i, step := range []float64{1, 0.3, 1, 0.3} {
				sine, cosine := math.Sincos(float64(p) * step)
				c, r = append(c, cosine), append(r, sine*[]float64{-1, -1, 1, 1}[i])
			}
		}
		return s.FromFloat64(c, 6, 4).To(d), s.FromFloat64(r, 6, 4).To(d)
	}
	list := []trained{
		{
			"linear",
			[][]int64{{3, 2, 5}, {4, 5}, {4}},
			func(_ *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor { return x[0].TrainLinear(x[1], x[2], false) },
			func(_ *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor { return x[0].Linear(x[1], x[2]) },
		},
		{
			"linear, input first, used twice",
			[][]int64{{6, 5}, {5, 5}},
			func(_ *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor {
				return x[0].TrainLinear(x[1], nil, true).TrainLinear(x[1], nil, true)
			},
			func(_ *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor { return x[0].Matmul(x[1]).Matmul(x[1]) },
		},
		{
			"embedding",
			[][]int64{{6, 3}},
			func(s *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor { return x[0].TrainEmbedding(ids(s)) },
			func(s *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor { return x[0].Embedding(ids(s)) },
		},
		{
			"head",
			[][]int64{{4, 3}, {7, 3}},
			func(s *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor { return x[0].TrainLogProbs(x[1], ids(s), 4) },
			func(s *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor {
				return x[0].Linear(x[1], nil).LogSoftmax(-1).Gather(1, ids(s).Unsqueeze(1)).Squeeze(1)
			},
		},
		{
			"head in parts",
			[][]int64{{40, 3}, {1003, 3}},
			func(s *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor {
				return x[0].TrainLogProbs(x[1], ascending(s, 40), 16)
			},
			func(s *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor {
				at := ascending(s, 40).Unsqueeze(1)
				return x[0].Linear(x[1], nil).LogSoftmax(-1).Gather(1, at).Squeeze(1)
			},
		},
		{
			"rotate",
			[][]int64{{4, 1, 2, 4}},
			func(s *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor {
				cos, sin := tables(s, x[0].DType())
				if x[0].DType() != tensor.Float32 {
					cos, sin := cos.IndexSelect(0, ids(s)).Unsqueeze(1).Unsqueeze(1), sin.IndexSelect(0, ids(s)).Unsqueeze(1).Unsqueeze(1)
					return x[0].Mul(cos).Add(x[0].Roll(2, -1).Mul(sin))
				}
				return x[0].TokenRotate(cos, sin, ids(s))
			},
			func(s *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor {
				cos, sin := tables(s, x[0].DType())
				cos, sin = cos.IndexSelect(0, ids(s)).Unsqueeze(1).Unsqueeze(1), sin.IndexSelect(0, ids(s)).Unsqueeze(1).Unsqueeze(1)
				return x[0].Mul(cos).Add(x[0].Roll(2, -1).Mul(sin))
			},
		},
		{
			"attention",
			[][]int64{{307, 4, 6}, {307, 2, 6}, {307, 2, 6}},
			func(_ *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor {
				return tensor.PackedAttention(x[0], x[1], x[2], packedSegments, 0, 0.4)
			},
			func(s *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor { return plainAttention(s, x, 0) },
		},
		{
			"attention in a window",
			[][]int64{{307, 4, 6}, {307, 2, 6}, {307, 2, 6}},
			func(_ *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor {
				return tensor.PackedAttention(x[0], x[1], x[2], packedSegments, 3, 0.4)
			},
			func(s *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor { return plainAttention(s, x, 3) },
		},
		{
			"attention in the form for GPUs",
			[][]int64{{307, 4, 6}, {307, 2, 6}, {307, 2, 6}},
			func(_ *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor {
				return tensor.FusedAttention(x[0], x[1], x[2], packedSegments, 0, 0.4)
			},
			func(s *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor { return plainAttention(s, x, 0) },
		},
		{
			"attention in a window in the form for GPUs",
			[][]int64{{307, 4, 6}, {307, 2, 6}, {307, 2, 6}},
			func(_ *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor {
				return tensor.FusedAttention(x[0], x[1], x[2], packedSegments, 3, 0.4)
			},
			func(s *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor { return plainAttention(s, x, 3) },
		},
	}
	float32Only := func(name string, shapes [][]int64, ours, plain func(x []*tensor.Tensor) *tensor.Tensor) {
		list = append(list, trained{
			name, shapes,
			func(_ *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor {
				if x[0].DType() != tensor.Float32 {
					return plain(x)
				}
				return ours(x)
			},
			func(_ *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor { return plain(x) },
		})
	}
	for _, d := range []int64{5, 24} {
		float32Only(fmt.Sprintf("norm of %d", d), [][]int64{{3, 2, d}, {d}},
			func(x []*tensor.Tensor) *tensor.Tensor { return x[0].TokenRMSNorm(x[1], 1, 1e-5) },
			func(x []*tensor.Tensor) *tensor.Tensor { return x[0].RMSNorm(x[1].AddScalar(1), 1e-5) })
	}
	float32Only("silu gate", [][]int64{{5, 7}, {5, 7}},
		func(x []*tensor.Tensor) *tensor.Tensor { return x[0].TokenSiluMul(x[1]) },
		func(x []*tensor.Tensor) *tensor.Tensor { return x[0].Silu().Mul(x[1]) })
	float32Only("gelu gate", [][]int64{{5, 7}, {5, 7}},
		func(x []*tensor.Tensor) *tensor.Tensor { return x[0].TokenGeluTanhMul(x[1]) },
		func(x []*tensor.Tensor) *tensor.Tensor { return x[0].GeluTanh().Mul(x[1]) })
	// A linear layer keeps neither a norm's result nor a gate's, nor does a second one.
	float32Only("norm before linear layers", [][]int64{{3, 2, 24}, {24}, {5, 24}, {5, 24}},
		func(x []*tensor.Tensor) *tensor.Tensor {
			h := x[0].TokenRMSNorm(x[1], 1, 1e-5)
			return h.TrainLinear(x[2], nil, false).Mul(h.TrainLinear(x[3], nil, false))
		},
		func(x []*tensor.Tensor) *tensor.Tensor {
			h := x[0].RMSNorm(x[1].AddScalar(1), 1e-5)
			return h.Linear(x[2], nil).Mul(h.Linear(x[3], nil))
		})
	float32Only("gate before a linear layer", [][]int64{{5, 7}, {5, 7}, {7, 3}},
		func(x []*tensor.Tensor) *tensor.Tensor { return x[0].TokenSiluMul(x[1]).TrainLinear(x[2], nil, true) },
		func(x []*tensor.Tensor) *tensor.Tensor { return x[0].Silu().Mul(x[1]).Matmul(x[2]) })
	return list
}

// run gives the result of f and the gradients of all inputs, by Backward from a weighted sum.
func (o trained) run(
	s *tensor.Scope, d tensor.DType, f func(*tensor.Scope, []*tensor.Tensor) *tensor.Tensor,
) (list []*tensor.Tensor, err error) {
	random := normals(1)
	var x []*tensor.Tensor
	for _, shape := range o.shapes {
		x = append(x, random.draw(s, tensor.Float64, shape...).MulScalar(0.7).To(d).RequiresGrad_(true))
	}
	y := f(s, x)
	y.Mul(random.draw(s, tensor.Float64, y.Shape()...).To(y.DType())).Sum().Backward()
	list = append(list, y.Detach())
	for _, leaf := range x {
		list = append(list, leaf.Grad())
	}
	return list, s.Err()
}

// The results and gradients of training's operations are those of the plain ones: in float64 to its precision, and of the
// float32 kernels to theirs.
func TestTrainingOperations(t *testing.T) {
	for _, o := range trainedOperations() {
		t.Run(o.name, func(t *testing.T) {
			onEngine(t, 2, func(s *tensor.Scope) error {
				want, err := o.run(s, tensor.Float64, o.plain)
				if err != nil {
					return err
				}
				for d, tolerance := range map[tensor.DType]float64{tensor.Float64: 1e-12, tensor.Float32: 3e-6} {
					got, err := o.run(s, d, o.ours)
					if err != nil {
						return err
					}
					for i := range want {
						a, b := want[i].Float64s(), got[i].Float64s()
						var largest, off float64
						for j := range a {
							largest, off = max(largest, math.Abs(a[j])), max(off, math.Abs(a[j]-b[j]))
						}
						if len(a) != len(b) || !(off <= tolerance*max(1, largest)) || largest == 0 {
							t.Errorf("%v, tensor %d: off by %g, largest %g", d, i, off, largest)
						}
					}
				}
				return nil
			})
		})
	}
}

// A layer of another type than its weight computes in its own and gives the weight a gradient of the weight's.
func TestTrainingInHalfPrecision(t *testing.T) {
	onEngine(t, 1, func(s *tensor.Scope) error {
		random := normals(1)
		w := random.draw(s, tensor.Float32, 8, 6).RequiresGrad_(true)
		x := random.draw(s, tensor.Float32, 5, 6)
		target := s.FromInt64([]int64{1, 7, 0, 3, 3}, 5)
		wide := x.TrainLogProbs(w, target, 2)
		wide.Sum().Backward()
		want := w.Grad().Clone()
		tensor.FreeGrads(s, []*tensor.Tensor{w})
		got := x.To(tensor.BFloat16).TrainLogProbs(w, target, 2)
		got.Sum().Backward()
		alike(t, "log-probs", wide.Detach(), got.Detach(), 0.1)
		alike(t, "gradient", want, w.Grad(), 0.1)
		y := x.To(tensor.BFloat16).TrainLinear(w, nil, false)
		y.To(tensor.Float32).Sum().Backward()
		if y.DType() != tensor.BFloat16 || w.Grad().DType() != tensor.Float32 {
			t.Errorf("a result of %v and a gradient of %v", y.DType(), w.Grad().DType())
		}
		return nil
	})
}

// Recompute gives equal bits, results and gradients, and runs its function twice.
func TestRecompute(t *testing.T) {
	onEngine(t, 2, func(s *tensor.Scope) error {
		random := normals(1)
		w := random.draw(s, tensor.Float32, 16, 16).RequiresGrad_(true)
		x := random.draw(s, tensor.Float32, 9, 16) // requires no gradient, as below an adapter
		runs := 0
		layer := func(x *tensor.Tensor) *tensor.Tensor {
			runs++
			return x.TrainLinear(w, nil, false).Silu().Add(x)
		}
		compute := func(recompute bool) (*tensor.Tensor, *tensor.Tensor) {
			h := x
			for range 3 {
				if recompute {
					h = s.Recompute(h, func(_ *tensor.Scope, x *tensor.Tensor) *tensor.Tensor { return layer(x) })
				} else {
					h = layer(h)
				}
			}
			h.Mul(h).Sum().Backward()
			g := w.Grad().Clone()
			tensor.FreeGrads(s, []*tensor.Tensor{w})
			return h.Detach(), g
		}
		want, wantGrad := compute(false)
		got, gotGrad := compute(true)
		if runs != 9 {
			t.Errorf("the layer ran %d times, want 3 times and then 3 times twice", runs)
		}
		alike(t, "result", want, got, 0)
		alike(t, "gradient", wantGrad, gotGrad, 0)
		return nil
	})
}

// What goes wrong in a recomputed function comes back as the operation's error: no crash across C++.
func TestRecomputeFails(t *testing.T) {
	eng, err := tensor.NewEngine(tensor.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = eng.Close() }()
	for name, test := range map[string]struct {
		f    func(s *tensor.Scope, x *tensor.Tensor) *tensor.Tensor
		want string
	}{
		"panic":     {func(*tensor.Scope, *tensor.Tensor) *tensor.Tensor { panic("lost") }, "lost"},
		"error":     {func(s *tensor.Scope, x *tensor.Tensor) *tensor.Tensor { return mismatch(s, 3) }, "Matmul"},
		"its own":   {func(s *tensor.Scope, x *tensor.Tensor) *tensor.Tensor { s.Fail(errors.New("no")); return x }, "no"},
		"no result": {func(*tensor.Scope, *tensor.Tensor) *tensor.Tensor { return nil }, "nil"},
	} {
		err := eng.Do(context.Background(), func(s *tensor.Scope) error {
			s.Recompute(s.Ones(tensor.Float32, 2), test.f)
			return nil
		})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want something with %q", name, err, test.want)
		}
		var kept *tensor.Tensor
		second := false
		err = eng.Do(context.Background(), func(s *tensor.Scope) error {
			w := s.Ones(tensor.Float32, 2).RequiresGrad_(true)
			kept = s.Recompute(w, func(s *tensor.Scope, x *tensor.Tensor) *tensor.Tensor {
				if second {
					return test.f(s, x)
				}
				return x.Mul(x)
			}).Sum().Keep()
			second = true
			kept.Backward()
			return nil
		})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s on the way back: %v, want something with %q", name, err, test.want)
		}
		err = eng.Do(context.Background(), func(*tensor.Scope) error {
			kept.Backward()
			return nil
		})
		if err == nil {
			t.Errorf("%s: a way back in another Do went well", name)
		}
	}
}

func TestTrainingRefusesWhatDoesNotFit(t *testing.T) {
	for name, f := range map[string]func(s *tensor.Scope){
		"target outside": func(s *tensor.Scope) {
			s.Ones(tensor.Float32, 1, 2).TrainLogProbs(s.Ones(tensor.Float32, 3, 2), s.FromInt64([]int64{3}, 1), 1)
		},
		"target missing": func(s *tensor.Scope) {
			s.Ones(tensor.Float32, 2, 2).TrainLogProbs(s.Ones(tensor.Float32, 3, 2), s.FromInt64([]int64{1}, 1), 1)
		},
		"id outside": func(s *tensor.Scope) { s.Ones(tensor.Float32, 3, 2).TrainEmbedding(s.FromInt64([]int64{3}, 1)) },
		"spans too short": func(s *tensor.Scope) {
			x := s.Ones(tensor.Float32, 3, 1, 2)
			tensor.PackedAttention(x, x, x, []tensor.Segment{{Length: 2}}, 0, 1)
		},
		"prefix outside": func(s *tensor.Scope) {
			x := s.Ones(tensor.Float32, 3, 1, 2)
			tensor.PackedAttention(x, x, x, []tensor.Segment{{Prefix: 2, PrefixLength: 2, Length: 3}}, 0, 1)
		},
		"no spans": func(s *tensor.Scope) {
			x := s.Ones(tensor.Float32, 3, 1, 2)
			tensor.PackedAttention(x, x, x, nil, 0, 1)
		},
	} {
		eng, err := tensor.NewEngine(tensor.Options{Threads: 1})
		if err != nil {
			t.Fatal(err)
		}
		err = eng.Do(context.Background(), func(s *tensor.Scope) error { f(s); return nil })
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		if err := eng.Close(); err != nil {
			t.Error(err)
		}
	}
}
