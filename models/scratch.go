package models

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"

	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/tensor"
)

// Scratch makes a model with random weights, as transformers initialises the family: normal with deviation
// InitializerRange around 0, norms 1, biases 0; GPT-2's projections into the residual stream are smaller by
// √(2·Layers). The weights are a function of the configuration and the seed: each weight has a stream of its own (PCG,
// seeded by the seed and the weight's name), so neither the machine's threads nor the other weights matter. Defaults
// are filled in.
func Scratch(ctx context.Context, eng *tensor.Engine, cfg architecture.Config, seed uint64) (*Model, error) {
	cfg = cfg.WithDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("models: from scratch: %w", err)
	}
	m, err := build(ctx, eng, cfg, Options{}, func(s *tensor.Scope, w architecture.Weight) (*tensor.Tensor, error) {
		if w.Std == 0 {
			return s.Full(tensor.Float32, w.Fill, w.Shape...), nil
		}
		return Normal(s, seed, w.Name, w.Std, w.Shape...), nil
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("models: from scratch: %w", err)
	}
	return m, nil
}

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

// stream is the random numbers of a weight.
func stream(seed uint64, name string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(name))
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}
