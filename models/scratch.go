package models

import (
	"context"
	"fmt"

	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/tensor"
)

// Scratch makes a model with random weights, as transformers initialises the family: normal with deviation
// InitializerRange around 0, norms 1, biases 0; GPT-2's projections into the residual stream are smaller by
// √(2·Layers). The weights are a function of the configuration and the seed: each weight has its own stream of random
// numbers (PCG, seeded by the seed and the weight's name), so neither threads nor other weights matter. Defaults are
// filled in.
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
