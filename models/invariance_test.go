package models_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/tensor"
)

// invariant are the models whose rows must not feel their neighbours: one of every family, with windows shorter than the
// rows, and models as wide as the demo's policy and as a real small one, whose matrix products take other paths.
func invariant(t *testing.T, eng *tensor.Engine) map[string]*models.Model {
	t.Helper()
	list := make(map[string]*models.Model)
	for _, name := range []string{"mistral-window", "qwen2", "qwen3-shards", "gemma3", "gpt2"} {
		list[name] = loadGolden(t, eng, name, tensor.Float32)
	}
	for name, cfg := range map[string]architecture.Config{
		"demo": {
			Family: architecture.Llama, Vocab: 512, Hidden: 80, Layers: 2, Heads: 4, Intermediate: 224, MaxPositions: 64,
			TieEmbeddings: true,
		},
		"wide": {
			Family: architecture.Llama, Vocab: 2048, Hidden: 576, Layers: 1, Heads: 9, KVHeads: 3, Intermediate: 1536,
			MaxPositions: 64, TieEmbeddings: true,
		},
		"wide gemma": {
			Family: architecture.Gemma3, Vocab: 2048, Hidden: 640, Layers: 2, Heads: 4, KVHeads: 1, HeadDim: 256, Intermediate: 1024,
			MaxPositions: 64, TieEmbeddings: true, SlidingWindow: 20, LocalLayers: []bool{true, false},
		},
	} {
		m, err := models.Scratch(context.Background(), eng, cfg, 1)
		if err != nil {
			t.Fatal(err)
		}
		list[name] = m
	}
	return list
}

// randomRows are sequences of up to length tokens.
func randomRows(rng *rand.Rand, n, vocab, length int) []models.Sequence {
	rows := make([]models.Sequence, n)
	for i := range rows {
		ids := make([]int64, 2+rng.IntN(length-1))
		for j := range ids {
			ids[j] = rng.Int64N(int64(vocab))
		}
		rows[i] = models.Sequence{IDs: ids, PromptLen: 1 + rng.IntN(len(ids)-1)}
	}
	return rows
}

// Steps give a row the same bits alone, among other rows, in another slot and in steps of another size.
func TestStepsAreBatchInvariant(t *testing.T) {
	const slots, length = 8, 40
	for _, threads := range []int{1, 2} {
		eng := newEngine(t, threads)
		for name, m := range invariant(t, eng) {
			if err := m.Pack(context.Background()); err != nil {
				t.Fatal(err)
			}
			t.Run(fmt.Sprintf("%s/%d threads", name, threads), func(t *testing.T) {
				rows := randomRows(rand.New(rand.NewPCG(1, 2)), slots, m.Config().Vocab, length)
				// hidden states of the last tokens of the rows in the slots, computed burst tokens of each at a time
				last := func(order []int, burst int) (out [][]float32) {
					do(t, eng, func(s *tensor.Scope) error {
						c := m.NewCache(s, architecture.CacheSize{Slots: slots, Length: length, Burst: burst})
						defer c.Free()
						out = make([][]float32, slots)
						for at := 0; at < length; at += burst {
							var tokens []models.Token
							ends := map[int]int{}
							for slot, i := range order {
								for p := at; i >= 0 && p < min(at+burst, len(rows[i].IDs)); p++ {
									ends[slot] = len(tokens)
									tokens = append(tokens, models.Token{ID: rows[i].IDs[p], Slot: slot, Position: p})
								}
							}
							if len(tokens) == 0 {
								break
							}
							h := c.Step(s, tokens, 0)
							for slot, end := range ends {
								out[slot] = c.Logits(s, h.Narrow(0, int64(end), 1)).Float32s()
							}
						}
						return nil
					})
					return out
				}
				whole := last([]int{0, 1, 2, 3, 4, 5, 6, 7}, 1)
				for _, order := range [][]int{
					{0, -1, -1, -1, -1, -1, -1, -1},
					{-1, -1, -1, -1, -1, -1, 4, -1},
					{7, 5, 3, 1, 0, 2, 4, 6},
					{2, 2, 2, 2, 2, 2, 2, 2},
				} {
					for _, burst := range []int{1, 3, length} {
						for slot, got := range last(order, burst) {
							if i := order[slot]; i >= 0 {
								if diff := cmp.Diff(whole[i], got); diff != "" {
									t.Fatalf("rows %v, %d at a time, row %d (-one by one +here):\n%s", order, burst, i, diff)
								}
							}
						}
					}
				}
			})
		}
	}
}

// With a multiple of RowStep rows, a matrix product gives equal rows equal results: what all the other tests here rest on.
func TestRowsOfMatrixProducts(t *testing.T) {
	for _, threads := range []int{1, 2, runtime.NumCPU()} {
		eng := newEngine(t, threads)
		for _, shape := range [][2]int64{{80, 80}, {80, 224}, {224, 80}, {80, 512}, {576, 192}, {576, 1536}, {1536, 576}} {
			in, out := shape[0], shape[1]
			do(t, eng, func(s *tensor.Scope) error {
				w := models.Normal(s, 1, "weight", 1, out, in)
				for rows := int64(models.RowStep); rows <= 128; rows += models.RowStep {
					x := models.Normal(s, uint64(rows), "row", 1, 1, in)
					y := x.RepeatInterleave(rows, 0).Linear(w, nil).Float32s()
					for part := range slices.Chunk(y, int(out)) {
						if !slices.Equal(part, y[:out]) {
							t.Errorf("%d threads: [%d, %d]·[%d, %d] depends on the row's place", threads, rows, in, in, out)
						}
					}
				}
				return nil
			})
		}
	}
}
