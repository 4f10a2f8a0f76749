package tensor_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/models/tensor/tensortest"
)

// Operations of libtch, of the shim, within a Recompute, and of the kernels' own scratch memory on several threads.
func TestOutOfMemory(t *testing.T) {
	const limit, large = 128 << 20, 1 << 36 // bytes, elements; the process may have kept gigabytes of earlier tests
	row := func(s *tensor.Scope, n int64) *tensor.Tensor { return s.Ones(tensor.Float32, n) }
	for _, c := range []struct {
		name  string
		bytes int64 // wanted; 0 if nobody says
		f     func(s *tensor.Scope)
	}{
		{"more than there are addresses", 1 << 52, func(s *tensor.Scope) { s.Zeros(tensor.Float32, 1<<50) }},
		{"created by libtch", 4 * large, func(s *tensor.Scope) { s.Zeros(tensor.Float32, large) }},
		{"a product", 4 * large, func(s *tensor.Scope) { row(s, 1<<18).Unsqueeze(1).Matmul(row(s, 1<<18).Unsqueeze(0)) }},
		{"of the shim", 4 * large, func(s *tensor.Scope) { row(s, 1).Expand(large).Softmax(0) }},
		{"in the backward pass of a Recompute", 4 * large, func(s *tensor.Scope) {
			again := false
			x := row(s, 8).RequiresGrad_(true)
			y := s.Recompute(x, func(s *tensor.Scope, x *tensor.Tensor) *tensor.Tensor {
				if again {
					s.Zeros(tensor.Float32, large)
				}
				again = true
				return x.MulScalar(2)
			})
			y.Sum().Backward()
		}},
		{"of the kernels, on each thread", 0, func(s *tensor.Scope) { // which sort the tokens
			s.Ones(tensor.Float32, 2, 1<<23).Sample([]tensor.Draw{{Temperature: 1, TopP: 1, Top: 1}, {Temperature: 1, TopP: 1, Top: 1}})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEngine(t, 2)
			tensortest.LimitMemory(t, limit)
			err := e.Do(t.Context(), func(s *tensor.Scope) error {
				c.f(s)
				return nil
			})
			var op *tensor.OpError
			var short *tensor.OutOfMemory
			if !errors.As(err, &op) || !errors.As(err, &short) {
				t.Fatalf("got %v, want an OpError whose cause is an OutOfMemory", err)
			}
			if short.Device != tensor.CPU || c.bytes > 0 && short.Bytes != c.bytes || strings.Count(err.Error(), "out of memory") != 1 {
				t.Errorf("%q for %d bytes on %v, want %d", err, short.Bytes, short.Device, c.bytes)
			}
			err = e.Do(t.Context(), func(s *tensor.Scope) error {
				if got := s.Ones(tensor.Float32, 1<<20).Sum().Item(); got != 1<<20 {
					t.Errorf("afterwards a sum is %v", got)
				}
				return nil
			})
			if err != nil {
				t.Errorf("the engine cannot be used afterwards: %v", err)
			}
		})
	}
}
