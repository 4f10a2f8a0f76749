package decode_test

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/decode"
)

// demo is the size of the demo's policy.
var demo = architecture.Config{
	Family: architecture.Llama, Vocab: 512, Hidden: 80, Layers: 3, Heads: 4, Intermediate: 224, MaxPositions: 256, TieEmbeddings: true,
}

// BenchmarkDemo samples the demo's 1,500 prompts, 12 tokens each.
func BenchmarkDemo(b *testing.B) {
	m, err := models.Scratch(context.Background(), newEngine(b, 2), demo, 1)
	if err != nil {
		b.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	reqs := make([]decode.Request, 1500)
	for i := range reqs {
		reqs[i] = decode.Request{IDs: make([]int64, 12+rng.IntN(12)), Seed: rng.Uint64()}
		for j := range reqs[i].IDs {
			reqs[i].IDs[j] = rng.Int64N(512)
		}
	}
	const tokens = 12
	reqs = with(decode.Request{MaxNew: tokens, Sampling: decode.Sampling{Temperature: 1, TopP: 1}}, reqs...)
	for b.Loop() {
		generate(b, m, reqs, decode.Options{Slots: 64})
	}
	b.ReportMetric(float64(b.N*len(reqs)*tokens)/b.Elapsed().Seconds(), "tokens/s")
}
