package models

import (
	"context"
	"fmt"

	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/tensor"
)

// canaryLength is the number of tokens of the canary, unless the model takes fewer.
const canaryLength = 32

// canaryTolerance is the greatest relative difference between the canaries of two machines, or of plain and packed weights,
// that compute the same model in Float32. Plain and packed weights of seven models differed by at most 2e-7, successive
// policies of the demo by at least 3e-3.
const canaryTolerance = 1e-4

// roundedTolerance is that between rounded weights and those of the file. Rounding changed the canaries of 15 models by at most
// 8e-4, and computing in bfloat16 by 3e-3.
const roundedTolerance = 0.01

// CanaryTolerance is the greatest relative difference between the model's canary and that of its file's weights in Float32.
func (m *Model) CanaryTolerance() float64 {
	if m.rounded {
		return roundedTolerance
	}
	return canaryTolerance
}

// Canary is the log-probability of a fixed text of the model's vocabulary. It shows whether a process computes with the
// weights that it should: the trainer records it in a policy's manifest, and workers compare theirs after loading.
func (m *Model) Canary(ctx context.Context) (float64, error) {
	n := min(canaryLength, m.cfg.MaxLength())
	tokens, targets := make([]Token, n-1), make([]int64, n-1)
	for i := range n {
		id := int64(i+1) * 7919 % int64(m.cfg.Vocab) // a prime, so that the tokens spread over any vocabulary
		if i < n-1 {
			tokens[i] = Token{ID: id, Position: i}
		}
		if i > 0 {
			targets[i-1] = id
		}
	}
	var sum float64
	err := m.eng.Do(ctx, func(s *tensor.Scope) error {
		return s.NoGrad(func(s *tensor.Scope) error {
			cache := m.NewCache(s, architecture.CacheSize{Slots: 1, Length: n, Burst: n})
			defer cache.Free()
			h := cache.Step(s, tokens, n-1)
			for _, v := range cache.Logits(s, h).LogSoftmaxAt(s.FromInt64(targets, int64(n-1))).Float32s() {
				sum += float64(v)
			}
			return s.Err()
		})
	})
	if err != nil {
		return 0, fmt.Errorf("models: canary: %w", err)
	}
	return sum, nil
}
