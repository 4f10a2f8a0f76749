package models

import (
	"math"
	"math/bits"

	"github.com/ldalign/ldalign/models/tensor"
)

// rope is a table of rotary position embeddings. Dimension i of a head turns with i+D/2 (the half-split form of Hugging
// Face's weights) by the angle position·frequency, see architecture.Config.Frequencies. The table grows to the longest
// sequence so far.
type rope struct {
	frequencies []float32 // [D/2], radians a position
	dtype       tensor.DType
	most        int            // positions
	cos         *tensor.Tensor // [positions, D], both halves alike
	sin         *tensor.Tensor // [positions, D], the first half negative
}

// newRope makes a table for up to most positions.
func newRope(s *tensor.Scope, frequencies []float32, most int, dtype tensor.DType) *rope {
	r := &rope{frequencies: frequencies, dtype: dtype, most: most}
	cos, sin := r.table(s, min(most, 64))
	r.cos, r.sin = cos.Keep(), sin.Keep()
	return r
}

// table computes the first rows.
func (r *rope) table(s *tensor.Scope, positions int) (cos, sin *tensor.Tensor) {
	half := len(r.frequencies)
	dim := 2 * half
	c, d := make([]float32, positions*dim), make([]float32, positions*dim)
	for i, frequency := range r.frequencies {
		for p := range positions {
			sine, cosine := math.Sincos(float64(float32(p) * frequency))
			a, b := p*dim+i, p*dim+i+half
			c[a], c[b] = float32(cosine), float32(cosine)
			d[a], d[b] = float32(-sine), float32(sine)
		}
	}
	shape := []int64{int64(positions), int64(dim)}
	return s.FromFloat32(c, shape...).To(r.dtype), s.FromFloat32(d, shape...).To(r.dtype)
}

// reach extends the table to a sequence of the given length.
func (r *rope) reach(s *tensor.Scope, length int) {
	if s.Err() != nil || int64(length) <= r.cos.Size(0) {
		return
	}
	cos, sin := r.table(s, min(r.most, 1<<bits.Len(uint(length-1))))
	if s.Err() != nil {
		return
	}
	r.cos.Free()
	r.sin.Free()
	r.cos, r.sin = cos.Keep(), sin.Keep()
}

// at gives the rows of the table for positions 0 to n-1, [n, 1, D], or for one position in each row of a batch, Int64
// [B] -> [B, 1, 1, D].
func (r *rope) at(n int64, positions *tensor.Tensor) (cos, sin *tensor.Tensor) {
	if positions == nil {
		return r.cos.Narrow(0, 0, n).Unsqueeze(1), r.sin.Narrow(0, 0, n).Unsqueeze(1)
	}
	pick := func(t *tensor.Tensor) *tensor.Tensor { return t.IndexSelect(0, positions).Unsqueeze(1).Unsqueeze(1) }
	return pick(r.cos), pick(r.sin)
}

// rotate turns the pairs of each head: x [B, T, heads, D].
func rotate(x, cos, sin *tensor.Tensor) *tensor.Tensor {
	return x.Mul(cos).Add(x.Roll(x.Size(-1)/2, -1).Mul(sin))
}
