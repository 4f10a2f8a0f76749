package tensor_test

import (
	"bytes"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/models/tensor"
)

func ints(t *testing.T, what string, got *tensor.Tensor, want ...int64) {
	t.Helper()
	if diff := cmp.Diff(want, got.Int64s()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func floats(t *testing.T, what string, got *tensor.Tensor, want ...float32) {
	t.Helper()
	if diff := cmp.Diff(want, got.Float32s()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestIndex(t *testing.T) {
	do(t, func(s *tensor.Scope) error {
		grid := s.FromFloat32([]float32{1, 5, 3, 9, 8, 7}, 2, 3)
		index := s.FromInt64([]int64{2, 0}, 2, 1)
		floats(t, "gather", grid.Gather(1, index), 3, 9)
		floats(t, "index select", grid.IndexSelect(1, s.FromInt64([]int64{2, 2}, 2)), 3, 3, 7, 7)
		floats(t, "embedding", grid.Embedding(s.FromInt64([]int64{1}, 1, 1)), 9, 8, 7)
		mask := s.FromBytes(tensor.Bool, []byte{0, 0, 0, 1, 1, 1}, 2, 3)
		floats(t, "masked fill", grid.MaskedFill(mask, -1), 1, 5, 3, -1, -1, -1)
		ints(t, "equal to 9", grid.EqScalar(9), 0, 0, 0, 1, 0, 0)
		floats(t, "tril", grid.Tril(0), 1, 0, 0, 9, 8, 0)
		floats(t, "triu", grid.Triu(1), 0, 5, 3, 0, 0, 7)
		return nil
	})
}

func TestInPlaceWritesThroughViews(t *testing.T) {
	do(t, func(s *tensor.Scope) error {
		cache := s.Zeros(tensor.Float32, 2, 4)
		cache.Narrow(1, 1, 2).Copy_(s.FromInt64([]int64{1, 2, 3, 4}, 2, 2))
		floats(t, "copied into a part", cache, 0, 1, 2, 0, 0, 3, 4, 0)
		cache.Select(0, 1).Fill_(9)
		floats(t, "filled", cache, 0, 1, 2, 0, 9, 9, 9, 9)
		cache.Clone().Fill_(0)
		same := cache.MulScalar_(2).Add_(cache)
		floats(t, "chained", same, 0, 4, 8, 0, 36, 36, 36, 36)
		if same != cache {
			t.Error("an in-place operation returned another tensor")
		}
		return nil
	})
}

func TestIntegersStayIntegers(t *testing.T) {
	do(t, func(s *tensor.Scope) error {
		x := s.FromInt64([]int64{1, 2, 3}, 3)
		for name, y := range map[string]*tensor.Tensor{
			"AddScalar": x.AddScalar(1), "MulScalar": x.MulScalar(2), "Sum": x.Sum(),
			"Full": s.Full(tensor.Int64, 7, 2),
		} {
			if y.DType() != tensor.Int64 {
				t.Errorf("%s gives %v, want int64", name, y.DType())
			}
		}
		for name, y := range map[string]*tensor.Tensor{"AddScalar": x.AddScalar(0.5), "DivScalar": x.DivScalar(2)} {
			if y.DType() != tensor.Float32 {
				t.Errorf("%s gives %v, want float32", name, y.DType())
			}
		}
		floats(t, "half", x.DivScalar(2), 0.5, 1, 1.5)
		if zero := s.Ones(tensor.Float64).MulScalar(math.Copysign(0, -1)).Item(); !math.Signbit(zero) {
			t.Error("a scalar of -0 lost its sign")
		}
		return nil
	})
}

func TestDataInAndOut(t *testing.T) {
	do(t, func(s *tensor.Scope) error {
		raw := make([]byte, 48)
		for i := range raw {
			raw[i] = byte(i%2) * byte(i) // finite in every type
		}
		for _, d := range []tensor.DType{
			tensor.Float32, tensor.BFloat16, tensor.Float16, tensor.Float64, tensor.Int64,
		} {
			x := s.FromBytes(d, raw[1:41], int64(40/d.Size())) // not aligned
			if x.DType() != d || x.Device() != tensor.CPU || !bytes.Equal(x.Bytes(), raw[1:41]) {
				t.Errorf("%v: bytes did not come back", d)
			}
		}
		flags := s.FromBytes(tensor.Bool, []byte{1, 0, 1}, 3)
		ints(t, "bool", flags, 1, 0, 1)
		data := []float32{1, 2, 3}
		x := s.FromFloat32(data, 3)
		data[0] = 9
		floats(t, "a copy", x, 1, 2, 3)
		floats(t, "row-major order of a view", s.FromFloat32([]float32{1, 2, 3, 4}, 2, 2).Transpose(0, 1), 1, 3, 2, 4)
		floats(t, "bfloat16 rounds", s.FromFloat32([]float32{1.0078125, 1.00390625}, 2).To(tensor.BFloat16), 1.0078125, 1)

		scalar := s.FromFloat32([]float32{5})
		if scalar.Item() != 5 || len(scalar.Shape()) != 0 || scalar.Numel() != 1 {
			t.Errorf("a tensor without dimensions has shape %v", scalar.Shape())
		}
		empty := s.FromInt64(nil, 0, 3)
		if empty.Numel() != 0 || len(empty.Int64s()) != 0 || len(empty.Bytes()) != 0 {
			t.Error("an empty tensor has elements")
		}
		if x.Unsqueeze(0).Size(-1) != 3 || s.Zeros(tensor.Float32, 2, 0).Size(1) != 0 {
			t.Error("Size is wrong")
		}
		return nil
	})
}

func TestBadInputIsAnError(t *testing.T) {
	do(t, func(s *tensor.Scope) error {
		x := s.Ones(tensor.Float32, 2, 3)
		for name, f := range map[string]func(s *tensor.Scope){
			"too little data":    func(s *tensor.Scope) { s.FromFloat32([]float32{1}, 2) },
			"negative size":      func(s *tensor.Scope) { s.FromFloat32(nil, -1, 2) },
			"overflowing size":   func(s *tensor.Scope) { s.FromFloat32(nil, math.MaxInt64, math.MaxInt64) },
			"unknown type":       func(s *tensor.Scope) { s.Zeros(tensor.DType(99), 2) },
			"unknown type, To":   func(*tensor.Scope) { x.To(tensor.DType(99)) },
			"unknown type, data": func(s *tensor.Scope) { s.FromBytes(tensor.DType(99), nil, 2) },
			"too much memory":    func(s *tensor.Scope) { s.Zeros(tensor.Float32, 1<<40, 1<<10) },
			"dimension":          func(*tensor.Scope) { x.Select(7, 0) },
			"size of dimension":  func(*tensor.Scope) { x.Size(2) },
			"sum over dimension": func(*tensor.Scope) { x.SumDims(false, 5) },
			"index":              func(*tensor.Scope) { x.Select(0, 2) },
			"id out of range":    func(s *tensor.Scope) { x.Embedding(s.FromInt64([]int64{2}, 1)) },
			"fractions as ints":  func(*tensor.Scope) { x.Int64s() },
			"item of many":       func(*tensor.Scope) { x.Item() },
			"nothing to join":    func(s *tensor.Scope) { s.Cat(0) },
			"norm of nothing":    func(s *tensor.Scope) { tensor.ClipGradNorm(s, nil, 1) },
			"many dimensions": func(s *tensor.Scope) {
				s.Ones(tensor.Float32, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1).Shape()
			},
			"shape of other size": func(*tensor.Scope) { x.Reshape(4, 2) },
			"leaf in place":       func(s *tensor.Scope) { s.Ones(tensor.Float32, 1).RequiresGrad_(true).Add_(x) },
		} {
			if err := s.Scope(func(s *tensor.Scope) error { f(s); return nil }); err == nil {
				t.Errorf("%s: no error", name)
			}
		}
		return nil
	})
}

func TestNames(t *testing.T) {
	for want, got := range map[string]string{
		"bfloat16": tensor.BFloat16.String(), "cpu": tensor.CPU.String(), "cuda:1": tensor.CUDA(1).String(),
		"unknown dtype": tensor.DType(99).String(),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
