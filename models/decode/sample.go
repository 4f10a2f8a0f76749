package decode

import (
	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
)

// sample draws one token per row, the j-th of its response: logits [B, V] -> [B].
func sample(s *tensor.Scope, logits *tensor.Tensor, opts Options, seeds []uint64, j int) []int64 {
	if opts.Temperature == 0 {
		return logits.Argmax(-1, false).Int64s()
	}
	draws := make([]float64, len(seeds))
	for row, seed := range seeds {
		draws[row] = models.Uniform(seed, j)
	}
	u := s.FromFloat64(draws, int64(len(draws)), 1)
	p := logits.To(tensor.Float32).MulScalar(1 / opts.Temperature).Softmax(-1).To(tensor.Float64)
	if opts.TopP == 1 {
		return inverse(p.CumSum(-1), nil, u).Reshape(-1).Int64s()
	}
	p, tokens := p.Sort(-1, true)
	mass := p.CumSum(-1)
	kept := mass.Sub(p).LtScalar(opts.TopP) // the mass before a token: the first token always stays
	return tokens.Gather(1, inverse(mass, kept, u)).Reshape(-1).Int64s()
}

// inverse inverts a cumulative distribution, restricted to a prefix of it (kept; nil is all): mass Float64 [B, V], u
// [B, 1] -> Int64 [B, 1]. It is the first token whose mass is above u times the whole mass, so a token of probability
// 0 is never drawn.
func inverse(mass, kept, u *tensor.Tensor) *tensor.Tensor {
	whole := mass.Narrow(-1, mass.Size(-1)-1, 1)
	if kept != nil {
		whole, _ = mass.Mul(kept.To(tensor.Float64)).Max(-1, true)
	}
	return mass.SearchSorted(u.Mul(whole), true)
}
