package tensor_test

import (
	"math"
	"testing"

	"github.com/ldalign/ldalign/models/tensor"
)

// differentiable is an operation whose gradients with respect to all its inputs are held against finite differences.
type differentiable struct {
	name   string
	shapes [][]int64
	f      func(s *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor
}

func one(name string, f func(x *tensor.Tensor) *tensor.Tensor) differentiable {
	return differentiable{name, [][]int64{{3, 4}}, func(_ *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor {
		return f(x[0])
	}}
}

func two(name string, a, b []int64, f func(x, y *tensor.Tensor) *tensor.Tensor) differentiable {
	return differentiable{name, [][]int64{a, b}, func(_ *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor {
		return f(x[0], x[1])
	}}
}

type (
	unary  = func(*tensor.Tensor) *tensor.Tensor
	scalar = func(*tensor.Tensor, float64) *tensor.Tensor
)

func with(f scalar, v float64) unary { return func(x *tensor.Tensor) *tensor.Tensor { return f(x, v) } }

var (
	row  = []int64{4}
	grid = []int64{3, 4}
	head = []int64{2, 3, 5, 4} // [B, H, T, D]
)

var differentiables = []differentiable{
	two("Add", grid, row, (*tensor.Tensor).Add),
	two("Sub", grid, row, (*tensor.Tensor).Sub),
	two("Mul", grid, row, (*tensor.Tensor).Mul),
	two("Div", grid, row, func(x, y *tensor.Tensor) *tensor.Tensor { return x.Div(y.Mul(y).AddScalar(1)) }),
	one("AddScalar", with((*tensor.Tensor).AddScalar, 3)),
	one("SubScalar", with((*tensor.Tensor).SubScalar, 3)),
	one("MulScalar", with((*tensor.Tensor).MulScalar, 3)),
	one("DivScalar", with((*tensor.Tensor).DivScalar, 3)),
	one("Neg", (*tensor.Tensor).Neg),
	one("Exp", (*tensor.Tensor).Exp),
	one("LogSigmoid", (*tensor.Tensor).LogSigmoid),
	one("Relu", (*tensor.Tensor).Relu),
	one("Silu", (*tensor.Tensor).Silu),
	one("Gelu", (*tensor.Tensor).Gelu),
	one("GeluTanh", (*tensor.Tensor).GeluTanh),
	one("Softmax", func(x *tensor.Tensor) *tensor.Tensor { return x.Softmax(-1) }),
	one("LogSoftmax", func(x *tensor.Tensor) *tensor.Tensor { return x.LogSoftmax(0) }),
	one("Sum", (*tensor.Tensor).Sum),
	one("SumDims", func(x *tensor.Tensor) *tensor.Tensor { return x.SumDims(true, 0) }),
	one("Tril", func(x *tensor.Tensor) *tensor.Tensor { return x.Tril(0) }),
	one("Triu", func(x *tensor.Tensor) *tensor.Tensor { return x.Triu(1) }),
	one("Reshape", func(x *tensor.Tensor) *tensor.Tensor { return x.Transpose(0, 1).Reshape(2, -1) }),
	one("Unsqueeze", func(x *tensor.Tensor) *tensor.Tensor { return x.Unsqueeze(1).Squeeze(1).Unsqueeze(-1) }),
	one("Expand", func(x *tensor.Tensor) *tensor.Tensor { return x.Unsqueeze(0).Expand(2, -1, -1) }),
	one("Narrow", func(x *tensor.Tensor) *tensor.Tensor { return x.Narrow(1, 1, 2) }),
	one("Select", func(x *tensor.Tensor) *tensor.Tensor { return x.Select(0, 2) }),
	one("RepeatInterleave", func(x *tensor.Tensor) *tensor.Tensor { return x.RepeatInterleave(2, 0) }),
	one("Roll", func(x *tensor.Tensor) *tensor.Tensor { return x.Roll(2, 1) }),
	one("Clone", (*tensor.Tensor).Clone),
	one("To", func(x *tensor.Tensor) *tensor.Tensor { return x.To(tensor.Float64) }),
	two("Matmul", []int64{2, 3, 4}, []int64{4, 5}, (*tensor.Tensor).Matmul),
	two("Linear", []int64{2, 3, 4}, []int64{5, 4}, func(x, w *tensor.Tensor) *tensor.Tensor { return x.Linear(w, nil) }),
	{"Linear with bias", [][]int64{{3, 4}, {5, 4}, {5}}, func(_ *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor {
		return x[0].Linear(x[1], x[2])
	}},
	{"LayerNorm", [][]int64{{3, 4}, {4}, {4}}, func(_ *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor {
		return x[0].LayerNorm(x[1], x[2], 1e-5)
	}},
	two("RMSNorm", grid, row, func(x, w *tensor.Tensor) *tensor.Tensor { return x.RMSNorm(w, 1e-5) }),
	{"SDPA causal", [][]int64{head, head, head}, func(_ *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor {
		return tensor.SDPA(x[0], x[1], x[2], nil, true, 0)
	}},
	{"SDPA masked", [][]int64{head, head, head, {5, 5}}, func(_ *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor {
		return tensor.SDPA(x[0], x[1], x[2], x[3], false, 0.3)
	}},
	{"Cat", [][]int64{{3, 4}, {2, 4}}, func(s *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor {
		return s.Cat(0, x...)
	}},
	{"Stack", [][]int64{{3, 4}, {3, 4}}, func(s *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor {
		return s.Stack(1, x...)
	}},
	{"Gather", [][]int64{{3, 4}}, func(s *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor {
		return x[0].Gather(1, s.FromInt64([]int64{3, 0, 0, 1, 2, 2}, 3, 2))
	}},
	{"IndexSelect", [][]int64{{3, 4}}, func(s *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor {
		return x[0].IndexSelect(0, s.FromInt64([]int64{2, 0, 2}, 3))
	}},
	{"Embedding", [][]int64{{3, 4}}, func(s *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor {
		return x[0].Embedding(s.FromInt64([]int64{2, 0, 2, 1}, 2, 2))
	}},
	{"MaskedFill", [][]int64{{3, 4}}, func(s *tensor.Scope, x []*tensor.Tensor) *tensor.Tensor {
		return x[0].MaskedFill(s.Ones(tensor.Float32, 3, 4).Triu(1).To(tensor.Bool), -2)
	}},
}

func TestGradients(t *testing.T) {
	const h, tolerance = 1e-6, 1e-7
	for _, op := range differentiables {
		t.Run(op.name, func(t *testing.T) {
			do(t, func(s *tensor.Scope) error {
				n := normals(3)
				var inputs []*tensor.Tensor
				for _, shape := range op.shapes {
					inputs = append(inputs, n.draw(s, tensor.Float64, shape...).RequiresGrad_(true))
				}
				weights := n.draw(s, tensor.Float64, op.f(s, inputs).Shape()...)
				loss := func() *tensor.Tensor { return op.f(s, inputs).Mul(weights).Sum() }
				grads := gradients(s, loss(), inputs)
				for i, x := range inputs {
					got := grads[i].Float64s()
					moved := false
					for j := range got {
						element := x.Detach().Reshape(-1).Narrow(0, int64(j), 1)
						at := element.Item()
						up := s.Result(func(*tensor.Scope) *tensor.Tensor { element.Fill_(at + h); return loss() }).Item()
						down := s.Result(func(*tensor.Scope) *tensor.Tensor { element.Fill_(at - h); return loss() }).Item()
						element.Fill_(at)
						want := (up - down) / (2 * h)
						moved = moved || want != 0
						if d := math.Abs(got[j] - want); d > tolerance*(1+math.Abs(want)) || math.IsNaN(d) {
							t.Errorf("input %d, element %d: gradient %.9g, finite difference %.9g", i, j, got[j], want)
						}
					}
					if s.Err() == nil && !moved {
						t.Errorf("input %d: the result does not depend on it", i)
					}
				}
				return nil
			})
		})
	}
}

func TestBackwardAddsUp(t *testing.T) {
	do(t, func(s *tensor.Scope) error {
		x := s.FromFloat32([]float32{1, 2}, 2).RequiresGrad_(true)
		x.Mul(x).Sum().Backward()
		x.MulScalar(3).Sum().Backward()
		if got := x.Grad().Float32s(); len(got) != 2 || got[0] != 5 || got[1] != 7 {
			t.Errorf("Grad() = %v, want 5 7", got)
		}
		for name, f := range map[string]func(s *tensor.Scope){
			"no gradient":  func(s *tensor.Scope) { s.Ones(tensor.Float32, 1).Grad() },
			"not a scalar": func(*tensor.Scope) { x.MulScalar(2).Backward() },
			"detached":     func(*tensor.Scope) { x.Detach().Sum().Backward() },
		} {
			if err := s.Scope(func(s *tensor.Scope) error { f(s); return nil }); err == nil {
				t.Errorf("%s: no error", name)
			}
		}
		return nil
	})
}
