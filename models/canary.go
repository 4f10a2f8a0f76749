package models

import (
	"context"
	"fmt"

	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/tensor"
)

// canaryLength is how many tokens the canary has, where the model takes as many.
const canaryLength = 32

// CanaryTolerance is by how much of its size the canary may differ between two machines, or between plain and packed
// weights, that compute the same model in Float32. Plain and packed weights of seven models differed by 2e-7 of it at most,
// policies of the demo that follow one another by 3e-3 at least.
const CanaryTolerance = 1e-4

// Canary is the log-probability of a fixed text of the model's own vocabulary, a number that tells whether a process
// computes with the weights it means to. The trainer notes it in a policy's manifest; workers compare after loading.
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
