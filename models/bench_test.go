package models_test

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/tensor"
)

// BenchmarkDemoStep is forward and backward of 64 rows of 32 tokens through a model of the demo's size.
func BenchmarkDemoStep(b *testing.B) {
	eng := newEngine(b, 2)
	m, err := models.Scratch(context.Background(), eng, architecture.Config{
		Family: architecture.Llama, Vocab: 512, Hidden: 80, Layers: 3, Heads: 4, Intermediate: 224, MaxPositions: 256, TieEmbeddings: true,
	}, 1)
	if err != nil {
		b.Fatal(err)
	}
	if err := m.SetTrainable(context.Background(), true); err != nil {
		b.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	rows := make([]models.Sequence, 64)
	for i := range rows {
		rows[i] = models.Sequence{IDs: make([]int64, 32), PromptLen: 20}
		for j := range rows[i].IDs {
			rows[i].IDs[j] = rng.Int64N(512)
		}
	}
	params := m.Params()
	tensors := make([]*tensor.Tensor, len(params))
	for i, p := range params {
		tensors[i] = p.Tensor
	}
	for b.Loop() {
		do(b, eng, func(s *tensor.Scope) error {
			models.TrainLogProbs(s, m, rows, models.Compute{}).Sum().Backward()
			tensor.FreeGrads(s, tensors)
			return nil
		})
	}
}
