package tensor_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/ldalign/ldalign/models/tensor"
)

// naiveAttention is softmax(q·kᵀ·scale + bias)·v, written out.
func naiveAttention(q, k, v, bias *tensor.Tensor, scale float64) *tensor.Tensor {
	scores := q.Matmul(k.Transpose(-2, -1)).MulScalar(scale)
	if bias != nil {
		scores = scores.Add(bias)
	}
	return scores.Softmax(-1).Matmul(v)
}

func TestSDPAEqualsNaiveAttention(t *testing.T) {
	const b, h, n, d = 2, 3, 37, 20
	for _, dtype := range []tensor.DType{tensor.Float32, tensor.Float64} {
		t.Run(dtype.String(), func(t *testing.T) {
			do(t, func(s *tensor.Scope) error {
				tolerance := map[tensor.DType]float64{tensor.Float32: 2e-6, tensor.Float64: 1e-14}[dtype]
				random := normals(1)
				q, k, v := random.draw(s, dtype, b, h, n, d), random.draw(s, dtype, b, h, n, d), random.draw(s, dtype, b, h, n, d)
				above := s.Ones(dtype, n, n).Triu(1).To(tensor.Bool) // true: must not be seen
				causal := s.Zeros(dtype, n, n).MaskedFill(above, math.Inf(-1))
				bias := random.draw(s, dtype, b, 1, n, n)
				scale := 1 / math.Sqrt(d)
				q1, k9, v9 := q.Narrow(2, 4, 1), k.Narrow(2, 0, 9), v.Narrow(2, 0, 9)
				seen, bias9 := s.Ones(dtype, n, n).Tril(0).To(tensor.Bool), bias.Narrow(3, 0, 9)
				for name, pair := range map[string][2]*tensor.Tensor{
					"all":              {tensor.SDPA(q, k, v, nil, false, 0), naiveAttention(q, k, v, nil, scale)},
					"causal":           {tensor.SDPA(q, k, v, nil, true, 0), naiveAttention(q, k, v, causal, scale)},
					"causal by a mask": {tensor.SDPA(q, k, v, seen, false, 0), naiveAttention(q, k, v, causal, scale)},
					"additive mask":    {tensor.SDPA(q, k, v, bias, false, 0), naiveAttention(q, k, v, bias, scale)},
					"scale":            {tensor.SDPA(q, k, v, nil, true, 0.3), naiveAttention(q, k, v, causal, 0.3)},
					"one query":        {tensor.SDPA(q1, k, v, nil, false, 0.3), naiveAttention(q1, k, v, nil, 0.3)},
					"fewer keys":       {tensor.SDPA(q, k9, v9, bias9, false, 0), naiveAttention(q, k9, v9, bias9, scale)},
				} {
					if d := furthest(pair[0], pair[1]); !(d <= tolerance) {
						t.Errorf("%s: difference %.3g, want at most %.3g", name, d, tolerance)
					}
				}
				if err := s.Err(); err != nil {
					return err
				}
				if err := s.Scope(func(*tensor.Scope) error { tensor.SDPA(q, k, v, bias, true, 0); return nil }); err == nil {
					t.Error("causal and a mask together: no error")
				}
				return nil
			})
		})
	}
}

func TestRMSNormInHalfPrecision(t *testing.T) {
	do(t, func(s *tensor.Scope) error {
		// The mean of squares overflows 16 bits; Llama's norm is computed in 32.
		x := s.FromFloat32([]float32{300, -400, 500, 600}, 1, 4).To(tensor.Float16)
		w := s.FromFloat32([]float32{1, 2, 0.5, 1}, 4).To(tensor.Float16)
		y := x.RMSNorm(w, 1e-6)
		if y.DType() != tensor.Float16 {
			t.Errorf("result is of %v, want float16", y.DType())
		}
		rms := math.Sqrt((300*300 + 400*400 + 500*500 + 600*600) / 4.0)
		want := []float64{300 / rms, -800 / rms, 250 / rms, 600 / rms}
		near(t, "rmsnorm", y.Float64s(), want, 1e-3)
		return nil
	})
}

func TestLayerNorm(t *testing.T) {
	do(t, func(s *tensor.Scope) error {
		x := s.FromFloat64([]float64{1, 2, 3, 6}, 1, 4)
		sd := math.Sqrt((4 + 1 + 0 + 9) / 4.0)
		y := x.LayerNorm(s.Ones(tensor.Float64, 4), s.Full(tensor.Float64, 1, 4), 0)
		near(t, "layernorm", y.Float64s(), []float64{-2/sd + 1, -1/sd + 1, 1, 3/sd + 1}, 1e-14)
		near(t, "layernorm without bias", x.LayerNorm(s.Ones(tensor.Float64, 4), nil, 0).Float64s(),
			[]float64{-2 / sd, -1 / sd, 0, 3 / sd}, 1e-14)
		return nil
	})
}

func TestFunctions(t *testing.T) {
	do(t, func(s *tensor.Scope) error {
		x := []float64{-3, -0.5, 0, 0.25, 1, 2.5}
		in := s.FromFloat64(x, int64(len(x)))
		sigmoid := func(v float64) float64 { return 1 / (1 + math.Exp(-v)) }
		for name, c := range map[string]struct {
			got  *tensor.Tensor
			want func(v float64) float64
		}{
			"Exp":        {in.Exp(), math.Exp},
			"LogSigmoid": {in.LogSigmoid(), func(v float64) float64 { return math.Log(sigmoid(v)) }},
			"Silu":       {in.Silu(), func(v float64) float64 { return v * sigmoid(v) }},
			"Gelu":       {in.Gelu(), func(v float64) float64 { return v * (1 + math.Erf(v/math.Sqrt2)) / 2 }},
			"GeluTanh": {in.GeluTanh(), func(v float64) float64 {
				return v / 2 * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(v+0.044715*v*v*v)))
			}},
		} {
			want := make([]float64, len(x))
			for i, v := range x {
				want[i] = c.want(v)
			}
			near(t, name, c.got.Float64s(), want, 1e-14)
		}
		return nil
	})
}

// The padding that makes results independent of place must not show: any number of elements, any strides.
func TestFunctionsOfAnyShape(t *testing.T) {
	do(t, func(s *tensor.Scope) error {
		random := normals(1)
		for _, shape := range [][]int64{{}, {0}, {1}, {63}, {64}, {65}, {3, 5, 7}, {33000}} {
			x := random.draw(s, tensor.Float64, shape...)
			y := x.Silu()
			if got := fmt.Sprint(y.Shape()); got != fmt.Sprint(x.Shape()) {
				t.Errorf("shape %v became %s", shape, got)
			}
			want := x.Float64s()
			for i, v := range want {
				want[i] = v / (1 + math.Exp(-v))
			}
			near(t, fmt.Sprintf("silu of %v", shape), y.Float64s(), want, 1e-14)
		}
		x := random.draw(s, tensor.Float64, 6, 10)
		for name, view := range map[string]*tensor.Tensor{
			"narrow": x.Narrow(1, 3, 5), "transposed": x.Transpose(0, 1), "expanded": x.Select(0, 1).Unsqueeze(1).Expand(10, 3),
		} {
			near(t, name, view.Exp().Float64s(), view.Contiguous().Exp().Float64s(), 0)
		}
		return nil
	})
}
