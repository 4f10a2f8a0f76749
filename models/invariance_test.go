package models_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
)

// invariant are the models whose rows must not feel their neighbours: two goldens, and models as wide as the demo's
// policy and as a real small one, whose matrix products take other paths.
func invariant(t *testing.T, eng *tensor.Engine) map[string]*models.Model {
	t.Helper()
	list := map[string]*models.Model{
		"mistral": loadGolden(t, eng, "mistral", tensor.Float32), "gpt2": loadGolden(t, eng, "gpt2", tensor.Float32),
	}
	for name, cfg := range map[string]models.Config{
		"demo": {
			Family: models.Llama, Vocab: 512, Hidden: 80, Layers: 2, Heads: 4, Intermediate: 224, MaxPositions: 64,
			TieEmbeddings: true,
		},
		"wide": {
			Family: models.Llama, Vocab: 2048, Hidden: 576, Layers: 1, Heads: 9, KVHeads: 3, Intermediate: 1536,
			MaxPositions: 64, TieEmbeddings: true,
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

// A row's log-probs are the same bits alone, among other neighbours, at another position and in a part-filled batch.
func TestLogProbsAreBatchInvariant(t *testing.T) {
	for _, threads := range []int{1, 2} {
		eng := newEngine(t, threads)
		for name, m := range invariant(t, eng) {
			t.Run(fmt.Sprintf("%s/%d threads", name, threads), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(1, 2))
				pad := models.PadRule{Rows: 8, Length: 32}
				rows := randomRows(rng, pad.Rows, m.Config().Vocab, pad.Length)
				logprobs := func(order []int) (values []float32) {
					var batch []models.Sequence
					for _, i := range order {
						batch = append(batch, rows[i])
					}
					do(t, eng, func(s *tensor.Scope) error {
						return s.NoGrad(func(s *tensor.Scope) error {
							values = models.LogProbs(s, m, batch, pad).Float32s()
							return nil
						})
					})
					return values[:len(batch)]
				}
				whole := logprobs([]int{0, 1, 2, 3, 4, 5, 6, 7})
				for _, order := range [][]int{{0}, {5}, {3, 1}, {7, 2, 6, 6, 0}, {4, 4, 4, 4, 4, 4, 4, 4}, rng.Perm(pad.Rows)} {
					var want []float32
					for _, i := range order {
						want = append(want, whole[i])
					}
					if diff := cmp.Diff(want, logprobs(order)); diff != "" {
						t.Errorf("rows %v (-among all +in this batch):\n%s", order, diff)
					}
				}
			})
		}
	}
}

// The trainer computes log-probs with gradients, the generator without: the same bits.
func TestLogProbsDoNotDependOnGradients(t *testing.T) {
	eng := newEngine(t, 2)
	for name, m := range invariant(t, eng) {
		t.Run(name, func(t *testing.T) {
			pad := models.PadRule{Rows: 8, Length: 32}
			rows := randomRows(rand.New(rand.NewPCG(3, 4)), pad.Rows, m.Config().Vocab, pad.Length)
			var with, without []float32
			if err := m.SetTrainable(context.Background(), true); err != nil {
				t.Fatal(err)
			}
			do(t, eng, func(s *tensor.Scope) error {
				logp := models.LogProbs(s, m, rows, pad)
				if !logp.RequiresGrad() {
					t.Error("no gradients flow to trainable weights")
				}
				with = logp.Detach().Float32s()
				return s.NoGrad(func(s *tensor.Scope) error {
					without = models.LogProbs(s, m, rows, pad).Float32s()
					return nil
				})
			})
			if diff := cmp.Diff(without, with); diff != "" {
				t.Errorf("with gradients (-without +with):\n%s", diff)
			}
		})
	}
}

// Decoding steps give a row the same bits with nobody beside it, with other rows, and at another position.
func TestStepsAreBatchInvariant(t *testing.T) {
	const slots, bucket, steps = 8, 16, 12
	for _, threads := range []int{1, 2} {
		eng := newEngine(t, threads)
		for name, m := range invariant(t, eng) {
			t.Run(fmt.Sprintf("%s/%d threads", name, threads), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(1, 2))
				rows := make([][]int64, slots) // the prompt, then one token for each step
				for i := range rows {
					rows[i] = make([]int64, 1+rng.IntN(bucket)+steps)
					for j := range rows[i] {
						rows[i][j] = rng.Int64N(int64(m.Config().Vocab))
					}
				}
				// logits of every step, for the rows at the given slots; -1 leaves a slot empty
				logits := func(order []int) [][]float32 {
					lens, prompts, next := make([]int, slots), make([]int64, slots*bucket), make([][]int64, steps)
					for slot := range slots {
						lens[slot] = 1
						for j := range next {
							next[j] = append(next[j], 0)
						}
						if i := order[slot]; i >= 0 {
							lens[slot] = len(rows[i]) - steps
							copy(prompts[slot*bucket:], rows[i][:lens[slot]])
							for j := range next {
								next[j][slot] = rows[i][lens[slot]+j]
							}
						}
					}
					var out [][]float32
					do(t, eng, func(s *tensor.Scope) error {
						return s.NoGrad(func(s *tensor.Scope) error {
							c := m.NewCache(s, lens, bucket, steps, 8)
							defer c.Free()
							out = append(out, m.Logits(s, c.Prefill(s, prompts)).Float32s())
							for _, ids := range next {
								out = append(out, m.Logits(s, c.Step(s, ids)).Float32s())
							}
							return nil
						})
					})
					return out
				}
				whole := logits([]int{0, 1, 2, 3, 4, 5, 6, 7})
				vocab := m.Config().Vocab
				for _, order := range [][]int{
					{0, -1, -1, -1, -1, -1, -1, -1},
					{-1, -1, -1, -1, -1, -1, 4, -1},
					{7, 5, 3, 1, 0, 2, 4, 6},
					{2, 2, 2, 2, 2, 2, 2, 2},
				} {
					for step, got := range logits(order) {
						for slot, i := range order {
							if i < 0 {
								continue
							}
							want := whole[step][i*vocab:][:vocab]
							if diff := cmp.Diff(want, got[slot*vocab:][:vocab]); diff != "" {
								t.Fatalf("rows %v, step %d, row %d (-among all +here):\n%s", order, step, i, diff)
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
				w := s.Randn(tensor.Float32, out, in)
				for rows := int64(models.RowStep); rows <= 128; rows += models.RowStep {
					y := s.Randn(tensor.Float32, 1, in).Repeat(rows, 1).Linear(w, nil)
					if y.Eq(y.Narrow(0, 0, 1)).All().Int64s()[0] == 0 {
						t.Errorf("%d threads: [%d, %d]·[%d, %d] depends on the row's place", threads, rows, in, in, out)
					}
				}
				return nil
			})
		}
	}
}
