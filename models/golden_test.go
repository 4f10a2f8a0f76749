package models_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/safetensors"
	"github.com/ldalign/ldalign/models/tensor"
)

// goldens are the folders that testdata/make_goldens.py has written with transformers.
var goldens = []string{"llama", "llama-tied", "llama-bf16", "mistral", "gpt2"}

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
					got := m.Logits(s, m.Hidden(s, m.Embed(s, ids)).Squeeze(0))
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
			rows, pad := g.rows(), models.PadRule{Rows: 6, Length: 40}
			do(t, m.Engine(), func(s *tensor.Scope) error {
				sums := models.LogProbs(s, m, rows, pad).Float32s()
				tokens := models.TokenLogProbs(s, m, rows, pad).Float32s()
				if s.Err() != nil {
					return s.Err()
				}
				for i := range pad.Rows {
					want := make([]float32, pad.Length)
					sum := 0.0
					if i < len(rows) {
						for j, logp := range g.TokenLogProbs[i] {
							want[rows[i].PromptLen+j] = float32(logp)
							sum += logp
						}
					}
					if d := largestDifference(tokens[i*pad.Length:][:pad.Length], want); d > 1e-4 {
						t.Errorf("row %d: token log-probs differ by %g", i, d)
					}
					if d := math.Abs(float64(sums[i]) - sum); d > 1e-4 {
						t.Errorf("row %d: log-prob %g, want %g", i, sums[i], sum)
					}
				}
				return nil
			})
		})
	}
}
