package tensor_test

import (
	"context"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/ldalign/ldalign/models/tensor"
)

// A row's numbers must not depend on its neighbours in the batch, nor on its place in it, to the last bit: a
// redelivered prompt has to give the same text. These are the operations that the models rely on for that, in fixed
// shapes.

type rowwise struct {
	name string
	row  []int64 // shape of one row's input
	// make draws the weights and returns the operation: x [B, row...] -> y [B, ...].
	make func(s *tensor.Scope, n normal) func(x *tensor.Tensor) *tensor.Tensor
}

func linear(in, out int64) rowwise {
	name := fmt.Sprintf("linear %dx%d", in, out)
	return rowwise{name, []int64{in}, func(s *tensor.Scope, n normal) func(*tensor.Tensor) *tensor.Tensor {
		w, b := n.draw(s, tensor.Float32, out, in), n.draw(s, tensor.Float32, out)
		return func(x *tensor.Tensor) *tensor.Tensor { return x.Linear(w, b) }
	}}
}

// parts splits x [B, 3, ...] into three tensors [B, ...].
func parts(x *tensor.Tensor) (q, k, v *tensor.Tensor) {
	return x.Select(1, 0).Contiguous(), x.Select(1, 1).Contiguous(), x.Select(1, 2).Contiguous()
}

func plain(f func(x *tensor.Tensor) *tensor.Tensor) func(*tensor.Scope, normal) func(*tensor.Tensor) *tensor.Tensor {
	return func(*tensor.Scope, normal) func(*tensor.Tensor) *tensor.Tensor { return f }
}

var rowwiseOps = []rowwise{
	linear(80, 224), linear(224, 80), linear(576, 1536), linear(1536, 576), linear(576, 4096),
	{"linear over sequences", []int64{24, 80}, func(s *tensor.Scope, n normal) func(*tensor.Tensor) *tensor.Tensor {
		w := n.draw(s, tensor.Float32, 224, 80)
		return func(x *tensor.Tensor) *tensor.Tensor { return x.Linear(w, nil) }
	}},
	{"rmsnorm", []int64{5, 576}, func(s *tensor.Scope, n normal) func(*tensor.Tensor) *tensor.Tensor {
		w := n.draw(s, tensor.Float32, 576)
		return func(x *tensor.Tensor) *tensor.Tensor { return x.RMSNorm(w, 1e-5) }
	}},
	{"layernorm", []int64{5, 576}, func(s *tensor.Scope, n normal) func(*tensor.Tensor) *tensor.Tensor {
		w, b := n.draw(s, tensor.Float32, 576), n.draw(s, tensor.Float32, 576)
		return func(x *tensor.Tensor) *tensor.Tensor { return x.LayerNorm(w, b, 1e-5) }
	}},
	{"log_softmax", []int64{5000}, plain(func(x *tensor.Tensor) *tensor.Tensor { return x.LogSoftmax(-1) })},
	{"linear, three dimensions of batch", []int64{2, 3, 80}, func(s *tensor.Scope, n normal) func(*tensor.Tensor) *tensor.Tensor {
		w := n.draw(s, tensor.Float32, 112, 80)
		return func(x *tensor.Tensor) *tensor.Tensor { return x.Linear(w, nil) }
	}},
	// Awkward sizes: threads end within a row, vectors end within it as well.
	{"silu", []int64{13, 1552}, plain((*tensor.Tensor).Silu)},
	{"silu, odd width", []int64{1537}, plain((*tensor.Tensor).Silu)},
	{"gelu", []int64{13, 1552}, plain((*tensor.Tensor).Gelu)},
	{"gelu tanh", []int64{13, 224}, plain((*tensor.Tensor).GeluTanh)},
	{"gelu tanh, odd width", []int64{1537}, plain((*tensor.Tensor).GeluTanh)},
	{"log sigmoid, odd width", []int64{1537}, plain((*tensor.Tensor).LogSigmoid)},
	{"exp, odd width", []int64{1537}, plain((*tensor.Tensor).Exp)},
	{"causal sdpa, whole sequences", []int64{3, 4, 96, 32}, plain(func(x *tensor.Tensor) *tensor.Tensor {
		q, k, v := parts(x)
		return tensor.SDPA(q, k, v, nil, true, 0)
	})},
	{"causal sdpa, whole sequences, odd sizes", []int64{3, 3, 37, 20}, plain(func(x *tensor.Tensor) *tensor.Tensor {
		q, k, v := parts(x)
		return tensor.SDPA(q, k, v, nil, true, 0)
	})},
	{"decoding by matmul, softmax, matmul", []int64{3, 4, 70, 32}, plain(func(x *tensor.Tensor) *tensor.Tensor {
		q, k, v := parts(x)
		q = q.Narrow(2, 0, 1)
		return q.Matmul(k.Transpose(-2, -1)).Softmax(-1).Matmul(v)
	})},
	{"decoding by sdpa", []int64{3, 4, 70, 32}, plain(func(x *tensor.Tensor) *tensor.Tensor {
		q, k, v := parts(x)
		return tensor.SDPA(q.Narrow(2, 0, 1), k, v, nil, false, 0)
	})},
}

// differs is the greatest difference between a row alone among some neighbours and among others elsewhere; 0 when all
// bits agree.
func (op rowwise) differs(s *tensor.Scope, batch int64) (float64, error) {
	n := normals(1)
	f := op.make(s, n)
	probe := n.draw(s, tensor.Float32, append([]int64{1}, op.row...)...)
	var want []float32
	worst := 0.0
	for trial := range 4 {
		err := s.Scope(func(s *tensor.Scope) error {
			at := int64(trial*5) % batch
			x := n.draw(s, tensor.Float32, append([]int64{batch}, op.row...)...)
			if trial == 3 { // a part-filled batch
				x.Fill_(0)
			}
			x.Narrow(0, at, 1).Copy_(probe)
			got := f(x).Select(0, at).Float32s()
			if trial == 0 {
				want = got
			}
			if err := s.Err(); err != nil || slices.Equal(want, got) {
				return err
			}
			for i := range got {
				worst = max(worst, math.Abs(float64(got[i]-want[i])))
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	return worst, nil
}

func TestBatchInvariance(t *testing.T) {
	for _, threads := range []int{1, 2, 3} {
		e := newEngine(t, threads)
		for _, op := range rowwiseOps {
			for _, batch := range []int64{8, 32} {
				t.Run(fmt.Sprintf("%s/batch %d/%d threads", op.name, batch, threads), func(t *testing.T) {
					err := e.Do(context.Background(), func(s *tensor.Scope) error {
						d, err := op.differs(s, batch)
						if d != 0 {
							t.Errorf("a row depends on its neighbours or its place: difference up to %.3g", d)
						}
						return err
					})
					if err != nil {
						t.Fatal(err)
					}
				})
			}
		}
	}
}
