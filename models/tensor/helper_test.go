package tensor_test

import (
	"math"
	"math/rand/v2"

	"github.com/ldalign/ldalign/models/tensor"
)

// normal draws tensors of normal numbers, one after the other.
type normal struct{ rng *rand.Rand }

// normals are a function of the seed.
func normals(seed uint64) normal { return normal{rand.New(rand.NewPCG(seed, 0))} }

// draw makes the next tensor.
func (n normal) draw(s *tensor.Scope, d tensor.DType, shape ...int64) *tensor.Tensor {
	count := int64(1)
	for _, size := range shape {
		count *= size
	}
	data := make([]float64, count)
	for i := range data {
		data[i] = n.rng.NormFloat64()
	}
	return s.FromFloat64(data, shape...).To(d)
}

// furthest is the greatest difference between the elements of two tensors of one shape.
func furthest(a, b *tensor.Tensor) float64 {
	x, y := a.Float64s(), b.Float64s()
	worst := 0.0
	for i := range x {
		if d := math.Abs(x[i] - y[i]); !(d <= worst) {
			worst = d
		}
	}
	return worst
}

// ascending are the Int64 numbers 0 to n-1.
func ascending(s *tensor.Scope, n int64) *tensor.Tensor {
	data := make([]int64, n)
	for i := range data {
		data[i] = int64(i)
	}
	return s.FromInt64(data, n)
}

// gradients are those of a loss for leaves, which are then without one.
func gradients(s *tensor.Scope, loss *tensor.Tensor, leaves []*tensor.Tensor) []*tensor.Tensor {
	loss.Backward()
	grads := make([]*tensor.Tensor, len(leaves))
	for i, x := range leaves {
		grads[i] = x.Grad().Clone()
	}
	tensor.FreeGrads(s, leaves)
	return grads
}
