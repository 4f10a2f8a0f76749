package models

import (
	"math"

	"github.com/ldalign/ldalign/models/tensor"
)

// rope is the table of rotary position embeddings. Dimension i of a head turns with i+D/2 (the half-split form of
// Hugging Face's weights) by the angle position·theta^(-2i/D), computed in float32 as transformers does.
type rope struct {
	cos *tensor.Tensor // [positions, D], both halves alike
	sin *tensor.Tensor // [positions, D], the first half negative
}

func newRope(s *tensor.Scope, theta float64, dim, positions int, dtype tensor.DType) rope {
	half := dim / 2
	cos, sin := make([]float32, positions*dim), make([]float32, positions*dim)
	for i := range half {
		frequency := float32(1 / math.Pow(theta, float64(2*i)/float64(dim)))
		for p := range positions {
			sine, cosine := math.Sincos(float64(float32(p) * frequency))
			a, b := p*dim+i, p*dim+i+half
			cos[a], cos[b] = float32(cosine), float32(cosine)
			sin[a], sin[b] = float32(-sine), float32(sine)
		}
	}
	return rope{
		cos: s.FromFloat32(cos, int64(positions), int64(dim)).To(dtype).Keep(),
		sin: s.FromFloat32(sin, int64(positions), int64(dim)).To(dtype).Keep(),
	}
}

// at gives the rows of the table for positions 0 to n-1, [n, 1, D], or for one position in each row of a batch, Int64
// [B] -> [B, 1, 1, D].
func (r rope) at(n int64, positions *tensor.Tensor) (cos, sin *tensor.Tensor) {
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
