package decode

import "github.com/ldalign/ldalign/models/tensor"

// sample draws one token per row, the j-th of its response: logits [B, V] -> [B].
func sample(s *tensor.Scope, logits *tensor.Tensor, opts Options, seeds []uint64, j int) []int64 {
	if opts.Temperature == 0 {
		return logits.Argmax(-1, false).Int64s()
	}
	draws := make([]float64, len(seeds))
	for row, seed := range seeds {
		draws[row] = Uniform(seed, j)
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

// inverse inverts a cumulative distribution, restricted to a prefix of it (kept; nil is all): mass Float64 [B, V], u [B, 1]
// -> Int64 [B, 1]. It is the first token whose mass is above u times the whole mass, so a token of probability 0 is never
// drawn.
func inverse(mass, kept, u *tensor.Tensor) *tensor.Tensor {
	whole := mass.Narrow(-1, mass.Size(-1)-1, 1)
	if kept != nil {
		whole, _ = mass.Mul(kept.To(tensor.Float64)).Max(-1, true)
	}
	return mass.SearchSorted(u.Mul(whole), true)
}

// Uniform is the random number in [0, 1), a multiple of 2^-52, behind the j-th token (from 0) of a response with this
// seed: SplitMix64's output function, applied to the seed and then to its result plus (j+1) times 2^64/φ.
func Uniform(seed uint64, j int) float64 {
	const golden = 0x9e3779b97f4a7c15
	return float64(mix(mix(seed)+golden*uint64(j+1))>>12) * 0x1p-52
}

// mix is the finaliser of SplitMix64 (Steele, Lea and Flood 2014), a bijection.
func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
