package decode_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/decode"
	"github.com/ldalign/ldalign/models/tensor"
)

// A server keeps one scheduler. Each of its requests is a Submit under the request's own context, so that a client who leaves
// frees its slot.
func ExampleScheduler() {
	ctx := context.Background()
	engine, err := tensor.NewEngine(tensor.Options{Threads: 1})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	load := func(seed uint64) *models.Model { // stands for models.Load
		m, err := models.Scratch(ctx, engine, architecture.Config{
			Family: architecture.Llama, Vocab: 96, Hidden: 16, Layers: 1, Heads: 2, Intermediate: 32, MaxPositions: 64, TieEmbeddings: true,
		}, seed)
		if err != nil {
			log.Fatal(err)
		}
		return m
	}
	first := load(1)
	s, err := decode.New(decode.Options{Slots: 4}, decode.Weights{Model: first, Digest: "iteration 1", Release: first.Close})
	if err != nil {
		log.Fatal(err)
	}

	answer := func() {
		reply, err := s.Submit(ctx, decode.Request{
			IDs: []int64{1, 2, 3}, MaxNew: 5, Seed: 7, Sampling: decode.Sampling{Temperature: 0.8, TopP: 0.95, PresencePenalty: 0.5},
		})
		if errors.Is(err, decode.ErrQueueFull) {
			fmt.Println("try again later")
			return
		}
		if err != nil {
			log.Fatal(err)
		}
		sampled := 0
		for range reply.Tokens() { // each as soon as it is there
			sampled++
		}
		result := reply.Result()
		fmt.Printf("%d tokens of %s: %s\n", sampled, result.Digest, result.Reason)
	}
	answer()
	second := load(2)
	if err := s.Swap(decode.Weights{Model: second, Digest: "iteration 2", Release: second.Close}); err != nil {
		log.Fatal(err)
	}
	answer()
	if err := s.Close(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// 5 tokens of iteration 1: length
	// 5 tokens of iteration 2: length
}
