package models

import (
	"hash/fnv"
	"math/rand/v2"

	"github.com/ldalign/ldalign/models/tensor"
)

// Normal is a Float32 tensor of normal numbers with deviation std around 0, a function of seed, name and shape.
func Normal(s *tensor.Scope, seed uint64, name string, std float64, shape ...int64) *tensor.Tensor {
	count := int64(1)
	for _, n := range shape {
		count *= n
	}
	rng := stream(seed, name)
	data := make([]float32, count)
	for i := range data {
		data[i] = float32(std * rng.NormFloat64())
	}
	return s.FromFloat32(data, shape...)
}

// uniform is a Float32 tensor of numbers from [-bound, bound), a function of seed, name and shape.
func uniform(s *tensor.Scope, seed uint64, name string, bound float64, shape ...int64) *tensor.Tensor {
	count := int64(1)
	for _, n := range shape {
		count *= n
	}
	rng := stream(seed, name)
	data := make([]float32, count)
	for i := range data {
		data[i] = float32(bound * (2*rng.Float64() - 1))
	}
	return s.FromFloat32(data, shape...)
}

// stream is the sequence of random numbers of a weight.
func stream(seed uint64, name string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(name))
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}

// Uniform is the j-th random number of a seed, from 0: a multiple of 2^-52 in [0, 1). It decides the j-th token of a sampled
// response, so any process can sample a text again from any of its tokens on. The function is SplitMix64's finaliser,
// applied to the seed and then to its result plus (j+1) times 2^64/φ.
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
