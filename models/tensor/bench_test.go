package tensor_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/ldalign/ldalign/models/tensor"
)

// What one operation costs, on tensors so small that the arithmetic costs nothing: libtorch's dispatch, the binding,
// and freeing.
func BenchmarkOp(b *testing.B) {
	ops := []struct {
		name string
		op   func(x, w *tensor.Tensor) *tensor.Tensor
	}{
		{"Add", func(x, _ *tensor.Tensor) *tensor.Tensor { return x.Add(x) }},
		{"MulScalar", func(x, _ *tensor.Tensor) *tensor.Tensor { return x.MulScalar(2) }},
		{"Silu", func(x, _ *tensor.Tensor) *tensor.Tensor { return x.Silu() }},
		{"Reshape", func(x, _ *tensor.Tensor) *tensor.Tensor { return x.Reshape(2, 4, 16) }},
		{"Narrow", func(x, _ *tensor.Tensor) *tensor.Tensor { return x.Narrow(0, 1, 2) }},
		{"Linear", func(x, w *tensor.Tensor) *tensor.Tensor { return x.Linear(w, nil) }},
		{"Softmax", func(x, _ *tensor.Tensor) *tensor.Tensor { return x.Softmax(-1) }},
		{"Add_", func(x, _ *tensor.Tensor) *tensor.Tensor { return x.Add_(x) }},
		{"Shape", func(x, _ *tensor.Tensor) *tensor.Tensor { x.Shape(); return x }},
	}
	for _, op := range ops {
		b.Run(op.name, func(b *testing.B) {
			b.ReportAllocs()
			err := newEngine(b, 1).Do(context.Background(), func(s *tensor.Scope) error {
				return s.NoGrad(func(s *tensor.Scope) error {
					x, w := s.Ones(tensor.Float32, 8, 16), s.Ones(tensor.Float32, 16, 16)
					for left := b.N; left > 0; left -= 100 {
						err := s.Scope(func(s *tensor.Scope) error {
							for range min(left, 100) {
								op.op(x, w)
							}
							return nil
						})
						if err != nil {
							return err
						}
					}
					return nil
				})
			})
			if err != nil {
				b.Fatal(err)
			}
		})
	}
}

// What sending a function to the engine's thread costs.
func BenchmarkDo(b *testing.B) {
	e := newEngine(b, 1)
	b.ReportAllocs()
	for b.Loop() {
		if err := e.Do(context.Background(), func(*tensor.Scope) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

// Packed matrix products for the few tokens of a decoding step and the many of a prompt, in GFLOP/s.
func BenchmarkPackedLinear(b *testing.B) {
	for _, shape := range [][2]int64{{576, 576}, {1536, 576}, {576, 1536}, {49152, 576}} {
		for _, rows := range []int64{1, 8, 32, 256} {
			b.Run(fmt.Sprintf("%dx%d/%d", shape[0], shape[1], rows), func(b *testing.B) {
				err := newEngine(b, 2).Do(context.Background(), func(s *tensor.Scope) error {
					return s.NoGrad(func(s *tensor.Scope) error {
						w, x := s.Ones(tensor.Float32, shape[0], shape[1]).Pack(), s.Ones(tensor.Float32, rows, shape[1])
						for b.Loop() {
							err := s.Scope(func(*tensor.Scope) error { x.PackedLinear(w, nil); return nil })
							if err != nil {
								return err
							}
						}
						return nil
					})
				})
				if err != nil {
					b.Fatal(err)
				}
				flops := 2 * float64(rows*shape[0]*shape[1]) * float64(b.N)
				b.ReportMetric(flops/1e9/b.Elapsed().Seconds(), "GFLOP/s")
			})
		}
	}
}
