package models_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/safetensors"
	"github.com/ldalign/ldalign/models/tensor"
)

// goldens are the folders that testdata/make_goldens.py has written with transformers: every family, and what the models
// of a family differ in. Where there is a window, it is shorter than the sequences.
var goldens = []string{
	"llama", "llama-tied", "llama-bf16", "llama3-f16", "llama-linear-bias", "mistral", "mistral-window", "qwen2",
	"qwen2-window-bf16", "qwen3", "qwen3-shards", "gemma3", "gemma3-bf16", "gemma3-images", "gpt2",
}

// golden is what transformers computed.
type golden struct {
	Sequences []struct {
		IDs       []int64 `json:"ids"`
		PromptLen int     `json:"prompt_len"`
	} `json:"sequences"`
	TokenLogProbs [][]float64 `json:"token_logprobs"`
	Greedy        [][]int64   `json:"greedy"`
}

func (g golden) rows() []models.Sequence {
	var rows []models.Sequence
	for _, q := range g.Sequences {
		rows = append(rows, models.Sequence{IDs: q.IDs, PromptLen: q.PromptLen})
	}
	return rows
}

func readGolden(t *testing.T, name string) golden {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name, "expect.json"))
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.Unmarshal(data, &g); err != nil {
		t.Fatal(err)
	}
	return g
}

func newEngine(t testing.TB, threads int) *tensor.Engine {
	t.Helper()
	e, err := tensor.NewEngine(tensor.Options{Threads: threads})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func loadGolden(t *testing.T, eng *tensor.Engine, name string, dtype tensor.DType) *models.Model {
	t.Helper()
	m, err := models.Load(context.Background(), eng, filepath.Join("testdata", name), models.Options{DType: dtype})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// do runs f on the engine and fails the test when it returns an error.
func do(t testing.TB, eng *tensor.Engine, f func(s *tensor.Scope) error) {
	t.Helper()
	if err := eng.Do(context.Background(), f); err != nil {
		t.Fatal(err)
	}
}

func largestDifference(a, b []float32) float64 {
	if len(a) != len(b) {
		return math.Inf(1)
	}
	worst := 0.0
	for i := range a {
		if d := math.Abs(float64(a[i]) - float64(b[i])); !(d <= worst) {
			worst = d
		}
	}
	return worst
}

func TestLogitsEqualTransformers(t *testing.T) {
	for _, name := range goldens {
		t.Run(name, func(t *testing.T) {
			want, err := safetensors.Open(filepath.Join("testdata", name, "expect.safetensors"))
			if err != nil {
				t.Fatal(err)
			}
			defer want.Close()
			m := loadGolden(t, newEngine(t, 1), name, tensor.Float32)
			for i, row := range readGolden(t, name).rows() {
				do(t, m.Engine(), func(s *tensor.Scope) error {
					ids := s.FromInt64(row.IDs, 1, int64(len(row.IDs)))
					got := m.Logits(m.Hidden(s, m.Embed(ids)).Squeeze(0))
					expect, err := want.Tensor("logits." + string(rune('0'+i)))
					if err != nil {
						return err
					}
					if d := largestDifference(got.Float32s(), float32s(expect.Data)); d > 1e-4 {
						t.Errorf("sequence %d: logits differ by %g", i, d)
					}
					return nil
				})
			}
		})
	}
}

// By token, plain and packed, the rows all beside one another and a few tokens at a time.
func TestStepsEqualTransformers(t *testing.T) {
	const burst = 3
	for _, name := range goldens {
		t.Run(name, func(t *testing.T) {
			want, err := safetensors.Open(filepath.Join("testdata", name, "expect.safetensors"))
			if err != nil {
				t.Fatal(err)
			}
			defer want.Close()
			m, rows := loadGolden(t, newEngine(t, 2), name, tensor.Float32), readGolden(t, name).rows()
			for _, kind := range []string{"plain", "packed"} {
				if kind == "packed" {
					if err := m.Pack(context.Background()); err != nil {
						t.Fatal(err)
					}
				}
				got := make([][]float32, len(rows))
				do(t, m.Engine(), func(s *tensor.Scope) error {
					c := m.NewCache(s, architecture.CacheSize{Slots: len(rows), Length: 40, Burst: burst})
					defer c.Free()
					for at := 0; s.Err() == nil; at += burst {
						var tokens []models.Token
						for slot, row := range rows {
							for p := at; p < min(at+burst, len(row.IDs)); p++ {
								tokens = append(tokens, models.Token{ID: row.IDs[p], Slot: slot, Position: p})
							}
						}
						if len(tokens) == 0 {
							break
						}
						logits := c.Logits(s, c.Step(s, tokens, 0)).Float32s()
						for i, token := range tokens {
							got[token.Slot] = append(got[token.Slot], logits[i*m.Config().Vocab:][:m.Config().Vocab]...)
						}
					}
					return nil
				})
				for i := range rows {
					expect, err := want.Tensor("logits." + string(rune('0'+i)))
					if err != nil {
						t.Fatal(err)
					}
					if d := largestDifference(got[i], float32s(expect.Data)); d > 1e-4 {
						t.Errorf("%s, sequence %d: logits differ by %g", kind, i, d)
					}
				}
			}
		})
	}
}

// A layer's cache holds the keys and values of the key-value heads alone, of a local layer no more than the window and a
// step's tokens, rounded up to the kernels' 32.
func TestCacheHoldsNoMoreThanItNeeds(t *testing.T) {
	eng := newEngine(t, 1)
	for _, test := range []struct {
		golden  string
		columns []int64 // of each layer
	}{
		{"llama", []int64{128, 128}},
		{"mistral-window", []int64{32, 32}},
		{"qwen2-window-bf16", []int64{128, 32}},
		{"gemma3", []int64{32, 128, 32}},
	} {
		m := loadGolden(t, eng, test.golden, tensor.Float32)
		cfg := m.Config()
		o := architecture.CacheSize{Slots: 3, Length: 128, Burst: 20}
		want := int64(0)
		for _, columns := range test.columns {
			width := int64(cfg.HeadDim+7) / 8 * 8
			want += 5 * int64(cfg.KVHeads) * columns * (int64(cfg.HeadDim) + width) * 4
		}
		if got := m.CacheBytes(o); got != want || cfg.KVHeads != 2 {
			t.Errorf("%s: %d bytes for %d key-value heads, want %d for 2", test.golden, got, cfg.KVHeads, want)
		}
	}
}

// A configuration counts the numbers of the model that it describes, and those of an adapter on it.
func TestParametersAreThoseOfTheModel(t *testing.T) {
	ctx, eng := context.Background(), newEngine(t, 1)
	numbers := func(list []tensor.Named) (n int64) {
		do(t, eng, func(*tensor.Scope) error {
			for _, p := range list {
				n += p.Tensor.Numel()
			}
			return nil
		})
		return n
	}
	for _, name := range goldens {
		m := loadGolden(t, eng, name, tensor.Float32)
		cfg := m.Config()
		if got, want := cfg.Parameters(), numbers(m.Params()); got != want {
			t.Errorf("%s: %d parameters, the model has %d", name, got, want)
		}
		lora := architecture.LoRA{Rank: 3, Alpha: 3, Targets: architecture.Modules{Pattern: architecture.AllLinear}}
		if err := m.AddAdapter(ctx, lora, 1); err != nil {
			t.Fatal(err)
		}
		got, err := lora.Parameters(cfg)
		if want := numbers(m.Trainable()); got != want || err != nil {
			t.Errorf("%s: %d parameters of an adapter, the model has %d: %v", name, got, want, err)
		}
	}
}

// Whole sequences and single tokens give the same hidden states, at every length: within the windows, and through several
// blocks of them.
func TestWholeEqualsByToken(t *testing.T) {
	for _, name := range goldens {
		t.Run(name, func(t *testing.T) {
			m := loadGolden(t, newEngine(t, 1), name, tensor.Float64)
			rng := rand.New(rand.NewPCG(1, 2))
			for _, length := range []int{1, 6, 7, 8, 31, 33, 64, 65, 128} {
				ids, tokens := make([]int64, length), make([]models.Token, length)
				for i := range ids {
					ids[i] = rng.Int64N(64)
					tokens[i] = models.Token{ID: ids[i], Position: i}
				}
				do(t, m.Engine(), func(s *tensor.Scope) error {
					whole := m.Hidden(s, m.Embed(s.FromInt64(ids, 1, int64(length)))).Squeeze(0)
					c := m.NewCache(s, architecture.CacheSize{Slots: 1, Length: length, Burst: 5})
					defer c.Free()
					var parts []*tensor.Tensor
					for part := range slices.Chunk(tokens, 5) {
						parts = append(parts, c.Step(s, part, 0))
					}
					if d, _ := furthest(whole.Float64s(), s.Cat(0, parts...).Float64s()); !(d < 1e-11) {
						t.Errorf("%d tokens: hidden states differ by %g", length, d)
					}
					return nil
				})
			}
		})
	}
}

func float32s(data []byte) []float32 {
	out := make([]float32, len(data)/4)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
	}
	return out
}

func TestLogProbsEqualTransformers(t *testing.T) {
	for _, name := range goldens {
		t.Run(name, func(t *testing.T) {
			m, g := loadGolden(t, newEngine(t, 1), name, tensor.Float32), readGolden(t, name)
			do(t, m.Engine(), func(s *tensor.Scope) error {
				rows := g.rows()
				sums := models.LogProbs(s, m, rows).Float64s()
				for i, row := range rows {
					sum, want := 0.0, make([]float32, len(g.TokenLogProbs[i]))
					for j, logp := range g.TokenLogProbs[i] {
						want[j] = float32(logp)
						sum += logp
					}
					if d := largestDifference(models.TokenLogProbs(s, m, row).Float32s(), want); d > 1e-4 {
						t.Errorf("row %d: token log-probs differ by %g", i, d)
					}
					if s.Err() == nil && math.Abs(sums[i]-sum) > 1e-4 {
						t.Errorf("row %d: log-prob %g, want %g", i, sums[i], sum)
					}
				}
				return nil
			})
		})
	}
}
