package models_test

import (
	"context"
	"testing"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/tensor"
)

// What a layer computes on its way is gone when the next one begins: a deep model leaves no more tensors than a shallow one.
func TestLayersLeaveTheirResultAlone(t *testing.T) {
	eng := newEngine(t, 1)
	for name, cfg := range map[string]architecture.Config{
		"llama": {
			Family: architecture.Llama, Vocab: 32, Hidden: 16, Heads: 4, KVHeads: 2, Intermediate: 24, MaxPositions: 64, TieEmbeddings: true,
		},
		"window": {
			Family: architecture.Mistral, Vocab: 32, Hidden: 16, Heads: 4, KVHeads: 2, Intermediate: 24, MaxPositions: 64, SlidingWindow: 8,
		},
		"gpt2": {Family: architecture.GPT2, Vocab: 32, Hidden: 16, Heads: 4, Intermediate: 24, MaxPositions: 64, TieEmbeddings: true},
	} {
		left := func(layers int) (whole, steps, packed int) {
			cfg.Layers = layers
			m, err := models.Scratch(context.Background(), eng, cfg, 1)
			if err != nil {
				t.Fatal(err)
			}
			do(t, eng, func(s *tensor.Scope) error {
				emb := m.Embed(s.Zeros(tensor.Int64, 2, 20))
				before := eng.Live()
				m.Hidden(s, emb)
				whole = eng.Live() - before
				if emb.Sum().Item() == 0 {
					t.Error("the caller's embeddings are 0")
				}
				return nil
			})
			step := func() (n int) {
				do(t, eng, func(s *tensor.Scope) error {
					cache := m.NewCache(s, architecture.CacheSize{Slots: 1, Length: 16, Burst: 4})
					defer cache.Free()
					before := eng.Live()
					cache.Step(s, []models.Token{{ID: 1}, {ID: 2, Position: 1}}, 4)
					n = eng.Live() - before
					return nil
				})
				return n
			}
			steps = step()
			if err := m.Pack(context.Background()); err != nil {
				t.Fatal(err)
			}
			return whole, steps, step()
		}
		whole, steps, packed := left(1)
		deepWhole, deepSteps, deepPacked := left(6)
		if whole != deepWhole || steps != deepSteps || packed != deepPacked {
			t.Errorf("%s: one layer leaves %d tensors of whole sequences, %d of a step, %d of a packed step; six leave %d, %d, %d",
				name, whole, steps, packed, deepWhole, deepSteps, deepPacked)
		}
	}
}
