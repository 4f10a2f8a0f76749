package decode_test

import (
	"cmp"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/decode"
	"github.com/ldalign/ldalign/models/tensor"
)

const testdata = "../testdata"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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

func load(t testing.TB, eng *tensor.Engine, name string) *models.Model {
	t.Helper()
	m, err := models.Load(context.Background(), eng, filepath.Join(testdata, name), models.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// readGolden returns the prompts of the golden file and their greedy continuations by transformers.
func readGolden(t *testing.T, name string) (reqs []decode.Request, want [][]int64) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(testdata, name, "expect.json"))
	if err != nil {
		t.Fatal(err)
	}
	var g struct {
		Sequences []struct {
			IDs       []int64 `json:"ids"`
			PromptLen int     `json:"prompt_len"`
		} `json:"sequences"`
		Greedy [][]int64 `json:"greedy"`
	}
	if err := json.Unmarshal(data, &g); err != nil {
		t.Fatal(err)
	}
	for _, q := range g.Sequences {
		reqs = append(reqs, decode.Request{IDs: q.IDs[:q.PromptLen]})
	}
	return reqs, g.Greedy
}

// pack packs a model.
func pack(t testing.TB, m *models.Model) *models.Model {
	t.Helper()
	if err := m.Pack(context.Background()); err != nil {
		t.Fatal(err)
	}
	return m
}

// ignoreLogProbs compares results by their tokens.
var ignoreLogProbs = cmpopts.IgnoreFields(decode.Result{}, "LogProbs")

// with applies shared settings to requests. A request keeps a MaxNew of its own.
func with(shared decode.Request, requests ...decode.Request) []decode.Request {
	out := slices.Clone(requests)
	for i := range out {
		out[i].MaxNew = cmp.Or(out[i].MaxNew, shared.MaxNew)
		out[i].Sampling, out[i].Stop, out[i].Top = shared.Sampling, shared.Stop, shared.Top
	}
	return out
}

// greedy takes the most probable tokens.
var greedy = decode.Sampling{TopP: 1}

func generate(t testing.TB, m *models.Model, reqs []decode.Request, opts decode.Options) []decode.Result {
	t.Helper()
	results, err := decode.Generate(context.Background(), m, reqs, opts, nil)
	if err != nil {
		t.Fatal(err)
	}
	return results
}

func TestGreedyEqualsTransformers(t *testing.T) {
	for _, name := range []string{
		"llama", "llama-tied", "llama-bf16", "llama3-f16", "llama-linear-bias", "mistral", "mistral-window", "qwen2",
		"qwen2-window-bf16", "qwen3", "qwen3-shards", "gemma3", "gemma3-bf16", "gemma3-images", "gpt2",
	} {
		t.Run(name, func(t *testing.T) {
			m := load(t, newEngine(t, 1), name)
			for _, kind := range []string{"plain", "packed"} {
				if kind == "packed" {
					pack(t, m)
				}
				reqs, want := readGolden(t, name)
				reqs = with(decode.Request{MaxNew: len(want[0]), Sampling: greedy}, reqs...)
				opts := decode.Options{Slots: 4, Prefill: 8}
				for i, got := range generate(t, m, reqs, opts) {
					alone := generate(t, m, reqs[i:i+1], opts)[0]
					if diff := gocmp.Diff(decode.Result{IDs: want[i], Reason: decode.Length}, got, ignoreLogProbs); diff != "" {
						t.Errorf("%s, request %d in a batch (-want +got):\n%s", kind, i, diff)
					}
					if diff := gocmp.Diff(got, alone); diff != "" {
						t.Errorf("%s, request %d alone (-batch +alone):\n%s", kind, i, diff)
					}
				}
			}
		})
	}
}
