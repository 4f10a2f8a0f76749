package models_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/safetensors"
	"github.com/ldalign/ldalign/models/tensor"
)

// keep makes TestAdapterForPEFT and TestSaveAndLoad leave what the scripts in testdata verify.
var keep = flag.String("keep", "", "an empty folder to write adapters and models to, for the scripts' verify")

// adapters are the folders that testdata/make_adapters.py has written with PEFT.
var adapters = []string{"llama", "llama-patterns", "llama-layers", "gpt2", "qwen2", "gemma3"}

// adapterGolden says what an adapter was made for.
type adapterGolden struct {
	Base      string    `json:"base"`
	Sequences [][]int64 `json:"sequences"`
}

func adapterFolder(name string) string { return filepath.Join("testdata", "adapters", name) }

// loadAdapter loads a golden adapter on its base.
func loadAdapter(t *testing.T, eng *tensor.Engine, name string) (*models.Model, adapterGolden) {
	t.Helper()
	var g adapterGolden
	data, err := os.ReadFile(filepath.Join(adapterFolder(name), "expect.json"))
	if err == nil {
		err = json.Unmarshal(data, &g)
	}
	if err != nil {
		t.Fatal(err)
	}
	m := loadGolden(t, eng, g.Base, tensor.Float32)
	if err := m.LoadAdapter(context.Background(), adapterFolder(name)); err != nil {
		t.Fatal(err)
	}
	return m, g
}

// logitsOf are the logits of each sequence alone.
func logitsOf(t *testing.T, m *models.Model, sequences [][]int64) [][]float32 {
	t.Helper()
	var all [][]float32
	do(t, m.Engine(), func(s *tensor.Scope) error {
		for _, ids := range sequences {
			h := m.Hidden(s, m.Embed(s.FromInt64(ids, 1, int64(len(ids)))))
			all = append(all, m.Logits(h.Squeeze(0)).To(tensor.Float32).Float32s())
		}
		return nil
	})
	return all
}

// change gives every B of an adapter random values, so that it does something.
func change(t *testing.T, m *models.Model, seed uint64) {
	t.Helper()
	do(t, m.Engine(), func(s *tensor.Scope) error {
		return s.NoGrad(func(s *tensor.Scope) error {
			for _, p := range m.Trainable() {
				if strings.HasSuffix(p.Name, ".lora_B.weight") {
					p.Tensor.Copy_(models.Normal(s, seed, p.Name, 0.2, p.Tensor.Shape()...))
				}
			}
			return nil
		})
	})
}

// The logits with PEFT's adapters, beside the weights and merged into them, are PEFT's.
func TestAdaptersOfPEFT(t *testing.T) {
	for _, name := range adapters {
		t.Run(name, func(t *testing.T) {
			m, g := loadAdapter(t, newEngine(t, 1), name)
			plain := loadGolden(t, m.Engine(), g.Base, tensor.Float32)
			if diff := cmp.Diff(bytesOf(t, plain), bytesOf(t, m)); diff != "" {
				t.Errorf("an adapter changed the weights beside it:\n%s", diff)
			}
			expect, err := safetensors.Open(filepath.Join(adapterFolder(name), "expect.safetensors"))
			if err != nil {
				t.Fatal(err)
			}
			defer expect.Close()
			check := func(what string, got [][]float32) {
				t.Helper()
				for i := range g.Sequences {
					want, err := expect.Tensor(fmt.Sprintf("logits.%d", i))
					if err != nil {
						t.Fatal(err)
					}
					if d := largestDifference(got[i], float32s(want.Data)); d > 1e-5 {
						t.Errorf("%s, sequence %d: logits differ by %g", what, i, d)
					}
				}
			}
			beside := logitsOf(t, m, g.Sequences)
			check("beside the weights", beside)
			if err := m.MergeAdapter(context.Background()); err != nil {
				t.Fatal(err)
			}
			merged := logitsOf(t, m, g.Sequences)
			check("merged", merged)
			for i := range merged {
				if d := largestDifference(merged[i], beside[i]); d > 2e-5 { // each may be 1e-5 from PEFT's
					t.Errorf("sequence %d: merging changes logits by %g", i, d)
				}
			}
			save(t, m, t.TempDir()) // it is an ordinary model again
		})
	}
}

// saveAdapter makes a folder of the model's adapter, as a checkpoint has it.
func saveAdapter(t *testing.T, m *models.Model, dir string) {
	t.Helper()
	config, err := m.AdapterConfig()
	if err != nil {
		t.Fatal(err)
	}
	var weights bytes.Buffer
	err = errors.Join(m.WriteAdapter(context.Background(), &weights), os.MkdirAll(dir, 0o755),
		os.WriteFile(filepath.Join(dir, architecture.AdapterConfigFile), config, 0o644))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, architecture.AdapterWeightsFile), weights.Bytes(), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// An adapter that is saved and loaded is the same, and holds the tensors that PEFT wrote.
func TestSaveAdapter(t *testing.T) {
	ctx := context.Background()
	for _, name := range adapters {
		t.Run(name, func(t *testing.T) {
			m, g := loadAdapter(t, newEngine(t, 1), name)
			dir := filepath.Join(t.TempDir(), "saved")
			saveAdapter(t, m, dir)
			if diff := cmp.Diff(tensorsOf(t, adapterFolder(name)), tensorsOf(t, dir)); diff != "" {
				t.Errorf("tensors (-PEFT +ours):\n%s", diff)
			}
			want, err := architecture.ReadLoRA(adapterFolder(name))
			if err != nil {
				t.Fatal(err)
			}
			got, err := architecture.ReadLoRA(dir)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("configuration (-PEFT +ours):\n%s", diff)
			}
			again := loadGolden(t, m.Engine(), g.Base, tensor.Float32)
			if err := again.LoadAdapter(ctx, dir); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(logitsOf(t, m, g.Sequences), logitsOf(t, again, g.Sequences)); diff != "" {
				t.Errorf("logits (-saved +loaded):\n%s", diff)
			}
		})
	}
}

// tensorsOf are the tensors of an adapter's file.
func tensorsOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	file, err := safetensors.Open(filepath.Join(dir, architecture.AdapterWeightsFile))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	all := map[string]string{}
	for _, info := range file.Tensors() {
		value, err := file.Tensor(info.Name)
		if err != nil {
			t.Fatal(err)
		}
		all[info.Name] = fmt.Sprintf("%s %v %x", info.DType, info.Shape, value.Data)
	}
	return all
}

// Adapters made here, and the models that they are merged into. With -keep they stay for PEFT and transformers to open.
func TestAdapterForPEFT(t *testing.T) {
	ctx := context.Background()
	for name, test := range map[string]struct {
		base string
		lora architecture.LoRA
	}{
		"llama": {"llama", architecture.LoRA{
			Rank: 4, Alpha: 8, Targets: architecture.Modules{Names: []string{"q_proj", "mlp.down_proj"}},
			Exclude: architecture.Modules{Pattern: `.*\.1\.mlp\..*`}, Dropout: 0.05,
		}},
		"llama-tied": {"llama-tied", architecture.LoRA{
			Rank: 3, Alpha: 2, RSLoRA: true, Targets: architecture.Modules{Pattern: architecture.AllLinear},
			Ranks:  []architecture.RankPattern{{Pattern: "q_proj", Rank: 2}, {Pattern: `layers\.0\..*`, Rank: 5}},
			Alphas: []architecture.AlphaPattern{{Pattern: "(up|gate)_proj", Alpha: 1.5}},
		}},
		"mistral": {"mistral", architecture.LoRA{
			Rank: 4, Alpha: 4, Targets: architecture.Modules{Names: []string{"o_proj", "lm_head"}},
		}},
		"gpt2": {"gpt2", architecture.LoRA{
			Rank: 2, Alpha: 4, Targets: architecture.Modules{Names: []string{"c_attn", "c_fc"}}, Layers: []int{1},
		}},
		"qwen3":  {"qwen3", architecture.LoRA{Rank: 2, Alpha: 4, Targets: architecture.Modules{Pattern: architecture.AllLinear}}},
		"gemma3": {"gemma3", architecture.LoRA{Rank: 2, Alpha: 4, Targets: architecture.Modules{Names: []string{"q_proj", "gate_proj"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), name)
			if *keep != "" {
				dir = filepath.Join(*keep, name)
			}
			m := loadGolden(t, newEngine(t, 1), test.base, tensor.Float32)
			if err := m.AddAdapter(ctx, test.lora, 1); err != nil {
				t.Fatal(err)
			}
			change(t, m, 2)
			saveAdapter(t, m, dir)
			g := adapterGolden{Base: test.base}
			for _, row := range readGolden(t, test.base).rows() {
				g.Sequences = append(g.Sequences, row.IDs)
			}
			beside := logitsOf(t, m, g.Sequences)
			if err := m.MergeAdapter(ctx); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(dir, "merged"), 0o755); err != nil {
				t.Fatal(err)
			}
			save(t, m, filepath.Join(dir, "merged"))
			writeExpectations(t, m, filepath.Join(dir, "merged"), g, logitsOf(t, m, g.Sequences))
			writeExpectations(t, m, dir, g, beside)
		})
	}
}

func writeExpectations(t *testing.T, m *models.Model, dir string, g adapterGolden, logits [][]float32) {
	t.Helper()
	data, err := json.Marshal(g)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "expect.json"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	var named []tensor.Named
	do(t, m.Engine(), func(s *tensor.Scope) error {
		for i, ids := range g.Sequences {
			rows := s.FromFloat32(logits[i], int64(len(ids)), int64(m.Config().Vocab)).Keep()
			named = append(named, tensor.Named{Name: fmt.Sprintf("logits.%d", i), Tensor: rows})
		}
		return nil
	})
	var file bytes.Buffer
	if err := models.WriteTensors(context.Background(), m.Engine(), &file, named); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "expect.safetensors"), file.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Merging changes nothing but rounding: in Float64, by every layer of every family.
func TestMergeAdapter(t *testing.T) {
	ctx := context.Background()
	for _, name := range goldens {
		m := loadGolden(t, newEngine(t, 1), name, tensor.Float64)
		if err := m.AddAdapter(ctx, architecture.LoRA{
			Rank: 3, Alpha: 2, RSLoRA: true, Targets: architecture.Modules{Pattern: architecture.AllLinear},
		}, 1); err != nil {
			t.Fatal(err)
		}
		change(t, m, 2)
		logits := func() (all []float64) {
			t.Helper()
			do(t, m.Engine(), func(s *tensor.Scope) error {
				h := m.Hidden(s, m.Embed(s.FromInt64([]int64{9, 8, 7, 6, 5, 4}, 1, 6)))
				all = m.Logits(h.Squeeze(0)).Float64s()
				return nil
			})
			return all
		}
		beside := logits()
		if err := m.MergeAdapter(ctx); err != nil {
			t.Fatal(err)
		}
		for i, merged := range logits() {
			if d := math.Abs(merged - beside[i]); !(d < 1e-12) {
				t.Fatalf("%s: merging changes logit %d by %g", name, i, d)
			}
		}
	}
}

// The gradients of A and B equal central differences, for every linear layer of every family: so each of them has its
// update. The weights beside have none.
func TestAdapterGradients(t *testing.T) {
	ctx := context.Background()
	for _, name := range goldens {
		t.Run(name, func(t *testing.T) {
			eng := newEngine(t, 1)
			m, g := loadGolden(t, eng, name, tensor.Float64), readGolden(t, name)
			lora := architecture.LoRA{Rank: 2, Alpha: 3, Targets: architecture.Modules{Pattern: `.*\..*`}}
			if !m.Config().TieEmbeddings {
				lora.Targets.Pattern += "|lm_head"
			}
			if err := m.SetTrainable(ctx, true); err != nil {
				t.Fatal(err)
			}
			if err := m.AddAdapter(ctx, lora, 1); err != nil {
				t.Fatal(err)
			}
			change(t, m, 3)
			if err := m.SetTrainable(ctx, true); err != nil {
				t.Fatal(err)
			}
			rows := g.rows()[:2]
			checkGradients(t, eng, m.Trainable(), func(s *tensor.Scope) *tensor.Tensor {
				logp := models.LogProbs(s, m, rows)
				return logp.Mul(s.FromFloat64([]float64{1, -0.5}, 2)).Sum()
			})
			do(t, eng, func(s *tensor.Scope) error {
				models.LogProbs(s, m, rows).Sum().Backward()
				for _, p := range m.Params() {
					if none := s.Scope(func(*tensor.Scope) error { p.Tensor.Grad(); return nil }); none == nil {
						t.Errorf("%s still has a gradient", p.Name)
					}
				}
				return s.Err()
			})
		})
	}
}

// A fresh adapter changes no bit, in any type, and is a function of configuration, seed and the layer's name.
func TestFreshAdapter(t *testing.T) {
	ctx := context.Background()
	lora := architecture.LoRA{Rank: 4, Alpha: 8, Targets: architecture.Modules{Pattern: architecture.AllLinear}}
	bits := func(threads int, lora architecture.LoRA, seed uint64) map[string][]float64 {
		t.Helper()
		m := loadGolden(t, newEngine(t, threads), "llama", tensor.Float32)
		if err := m.AddAdapter(ctx, lora, seed); err != nil {
			t.Fatal(err)
		}
		all := map[string][]float64{}
		do(t, m.Engine(), func(*tensor.Scope) error {
			for _, p := range m.Trainable() {
				all[p.Name] = p.Tensor.Float64s()
			}
			return nil
		})
		return all
	}
	first := bits(1, lora, 1)
	if diff := cmp.Diff(first, bits(2, lora, 1)); diff != "" {
		t.Errorf("the same seed (-first +second):\n%s", diff)
	}
	const q = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
	fewer := bits(1, architecture.LoRA{Rank: 4, Alpha: 1, Targets: architecture.Modules{Names: []string{"q_proj"}}}, 1)
	if len(fewer) != 4 || !cmp.Equal(first[q], fewer[q]) {
		t.Error("the values of a layer depend on other layers")
	}
	if cmp.Equal(first[q], bits(1, lora, 2)[q]) {
		t.Error("another seed gives the same values")
	}
	// On record: an adapter that was made once can be made again.
	if diff := cmp.Diff([]float64{-0.03593676909804344, -0.06445590406656265}, first[q][:2]); diff != "" {
		t.Errorf("first values (-want +got):\n%s", diff)
	}
	for name, values := range first {
		bound := 0.0
		if strings.HasSuffix(name, ".lora_A.weight") {
			bound = math.Sqrt(float64(4) / float64(len(values))) // 1/√In, of 4·In values
		}
		largest := 0.0
		for _, v := range values {
			largest = max(largest, math.Abs(v))
		}
		if largest > bound || largest < 0.9*bound {
			t.Errorf("%s: the largest value is %g, want nearly %g", name, largest, bound)
		}
	}
	for _, dtype := range []tensor.DType{tensor.Float32, tensor.BFloat16, tensor.Float64} {
		m := loadGolden(t, newEngine(t, 1), "gpt2", dtype)
		sequences := [][]int64{{5, 6, 7, 8}}
		want := logitsOf(t, m, sequences)
		if err := m.AddAdapter(ctx, lora, 1); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, logitsOf(t, m, sequences)); diff != "" {
			t.Errorf("%v: a fresh adapter changes logits:\n%s", dtype, diff)
		}
		change(t, m, 1)
		if cmp.Equal(want, logitsOf(t, m, sequences)) {
			t.Errorf("%v: a trained adapter changes nothing", dtype)
		}
	}
}

// By token, an adapter does what it does with whole sequences.
func TestAdapterByToken(t *testing.T) {
	for _, name := range []string{"llama-patterns", "gpt2"} {
		m, g := loadAdapter(t, newEngine(t, 1), name)
		ids := g.Sequences[0]
		want := logitsOf(t, m, [][]int64{ids})[0]
		do(t, m.Engine(), func(s *tensor.Scope) error {
			cache := m.NewCache(s, architecture.CacheSize{Slots: 1, Length: len(ids), Burst: len(ids)})
			defer cache.Free()
			var tokens []models.Token
			for i, id := range ids {
				tokens = append(tokens, models.Token{ID: id, Position: i})
			}
			got := cache.Logits(s, cache.Step(s, tokens, len(ids))).Float32s()
			if d := largestDifference(got, want); d > 1e-4 {
				t.Errorf("%s: logits by token differ by %g", name, d)
			}
			return nil
		})
	}
}

func TestReplaceAdapter(t *testing.T) {
	ctx := context.Background()
	m, g := loadAdapter(t, newEngine(t, 1), "llama")
	want := logitsOf(t, m, g.Sequences)
	lora, _ := m.Adapter()
	again := loadGolden(t, m.Engine(), g.Base, tensor.Float32)
	file, err := safetensors.Open(filepath.Join(adapterFolder("llama"), architecture.AdapterWeightsFile))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := again.ReplaceAdapter(ctx, file); !errors.Is(err, architecture.ErrAdapter) {
		t.Errorf("a model without an adapter: %v", err)
	}
	if err := again.AddAdapter(ctx, lora, 5); err != nil {
		t.Fatal(err)
	}
	params := again.Trainable()
	if err := again.ReplaceAdapter(ctx, file); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(params, again.Trainable()) {
		t.Error("the tensors are others, which an optimizer does not know")
	}
	if diff := cmp.Diff(want, logitsOf(t, again, g.Sequences)); diff != "" {
		t.Errorf("logits (-loaded +replaced):\n%s", diff)
	}
	other, err := safetensors.Open(filepath.Join(adapterFolder("gpt2"), architecture.AdapterWeightsFile))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := again.ReplaceAdapter(ctx, other); !errors.Is(err, architecture.ErrAdapter) {
		t.Errorf("another model's adapter: %v", err)
	}
	if diff := cmp.Diff(want, logitsOf(t, again, g.Sequences)); diff != "" {
		t.Errorf("logits after a refusal:\n%s", diff)
	}
}

// An adapter of another model is refused, with what does not fit, and leaves nothing behind.
func TestAdapterOfAnotherModel(t *testing.T) {
	ctx, eng := context.Background(), newEngine(t, 1)
	narrow, err := models.Scratch(ctx, eng, architecture.Config{
		Family: architecture.Llama, Vocab: 64, Hidden: 16, Layers: 2, Heads: 4, KVHeads: 2, Intermediate: 56, MaxPositions: 32,
	}, 1)
	if err != nil {
		t.Fatal(err)
	}
	deep, err := models.Scratch(ctx, eng, architecture.Config{
		Family: architecture.Llama, Vocab: 64, Hidden: 32, Layers: 3, Heads: 4, KVHeads: 2, Intermediate: 56, MaxPositions: 32,
	}, 1)
	if err != nil {
		t.Fatal(err)
	}
	shallow, err := models.Scratch(ctx, eng, architecture.Config{
		Family: architecture.Llama, Vocab: 64, Hidden: 32, Layers: 1, Heads: 4, KVHeads: 2, Intermediate: 56, MaxPositions: 32,
	}, 1)
	if err != nil {
		t.Fatal(err)
	}
	llama, tied := loadGolden(t, eng, "llama", tensor.Float32), loadGolden(t, eng, "llama-tied", tensor.Float32)
	empty := t.TempDir()
	noWeights := t.TempDir()
	data, err := os.ReadFile(filepath.Join(adapterFolder("llama"), architecture.AdapterConfigFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(noWeights, architecture.AdapterConfigFile), data, 0o644); err != nil {
		t.Fatal(err)
	}
	before := eng.Live()
	for _, test := range []struct {
		what, dir string
		m         *models.Model
		err       error
		text      string
	}{
		{
			"gpt2's on llama", adapterFolder("gpt2"), llama, architecture.ErrAdapter,
			"chooses no linear layer of this llama model",
		},
		{"another width", adapterFolder("llama"), narrow, architecture.ErrAdapter, "q_proj.lora_A.weight is [4 32], want [4 16]"},
		{
			"more layers", adapterFolder("llama"), deep, architecture.ErrAdapter,
			"missing: base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight",
		},
		{
			"fewer layers", adapterFolder("llama"), shallow, architecture.ErrAdapter,
			"unknown: base_model.model.model.layers.1.self_attn.o_proj.lora_A.weight",
		},
		{"a head that is tied", adapterFolder("llama-patterns"), tied, architecture.ErrAdapter, "lm_head"},
		{"no folder", filepath.Join(empty, "none"), llama, fs.ErrNotExist, architecture.AdapterConfigFile},
		{"no weights", noWeights, llama, fs.ErrNotExist, architecture.AdapterWeightsFile},
	} {
		if err := test.m.LoadAdapter(ctx, test.dir); !errors.Is(err, test.err) || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: %v, want %v that says %q", test.what, err, test.err, test.text)
		} else if _, check := architecture.CheckAdapter(test.dir, test.m.Config()); check == nil || check.Error() != err.Error() {
			t.Errorf("%s: %v, and before loading %v", test.what, err, check)
		}
		if _, has := test.m.Adapter(); has {
			t.Errorf("%s: refused, and there all the same", test.what)
		}
	}
	if live := eng.Live(); live != before {
		t.Errorf("%d tensors are left", live-before)
	}
}

// What needs a model without an adapter, with one, or that is not packed, says so.
func TestAdapterStates(t *testing.T) {
	ctx, eng := context.Background(), newEngine(t, 1)
	lora := architecture.LoRA{Rank: 2, Alpha: 2, Targets: architecture.Modules{Names: []string{"q_proj"}}}
	m := loadGolden(t, eng, "llama", tensor.Float32)
	for what, err := range map[string]error{
		"merge": m.MergeAdapter(ctx), "write": m.WriteAdapter(ctx, &bytes.Buffer{}),
		"no layer": m.AddAdapter(ctx, architecture.LoRA{Rank: 1, Alpha: 1, Targets: architecture.Modules{Names: []string{"c_attn"}}}, 1),
		"no rank":  m.AddAdapter(ctx, architecture.LoRA{Targets: lora.Targets}, 1),
	} {
		if !errors.Is(err, architecture.ErrAdapter) {
			t.Errorf("%s without an adapter: %v", what, err)
		}
	}
	if err := m.AddAdapter(ctx, lora, 1); err != nil {
		t.Fatal(err)
	}
	_, clone := m.Clone(ctx)
	for what, err := range map[string]error{
		"add": m.AddAdapter(ctx, lora, 1), "load": m.LoadAdapter(ctx, adapterFolder("llama")), "clone": clone,
		"write": m.WriteWeights(ctx, &bytes.Buffer{}), "pack": m.Pack(ctx),
	} {
		if !errors.Is(err, architecture.ErrAdapter) {
			t.Errorf("%s with an adapter: %v", what, err)
		}
	}
	packed, err := models.Load(ctx, eng, filepath.Join("testdata", "llama"), models.Options{Packed: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := packed.AddAdapter(ctx, lora, 1); !errors.Is(err, models.ErrPacked) {
		t.Errorf("a packed model: %v", err)
	}
	before := eng.Live()
	if err := errors.Join(m.MergeAdapter(ctx), m.AddAdapter(ctx, lora, 2), m.Close(ctx)); err != nil {
		t.Fatal(err)
	}
	if eng.Live() >= before-len(m.Params()) {
		t.Errorf("a closed model leaves tensors of its adapter")
	}
}

// Any configuration is read as it was written, adapts the layers that it names, and merges into the same function.
func TestAdapterConfigurations(t *testing.T) {
	ctx, eng := context.Background(), newEngine(t, 1)
	blocks := []string{"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
	cfg := architecture.Config{
		Family: architecture.Llama, Vocab: 20, Hidden: 8, Layers: 3, Heads: 2, Intermediate: 12, MaxPositions: 16,
	}
	rapid.Check(t, func(r *rapid.T) {
		names := rapid.SliceOfNDistinct(rapid.SampledFrom(blocks), 1, 7, rapid.ID).Draw(r, "names")
		lora := architecture.LoRA{
			Rank: rapid.IntRange(1, 9).Draw(r, "r"), Alpha: rapid.Float64Range(0.5, 8).Draw(r, "alpha"),
			RSLoRA: rapid.Bool().Draw(r, "rslora"), Dropout: rapid.Float64Range(0, 0.9).Draw(r, "dropout"),
		}
		layers := 3
		switch rapid.SampledFrom([]string{"list", "blocks", "pattern"}).Draw(r, "targets") {
		case "list":
			lora.Targets.Names = names
		case "blocks":
			lora.Targets.Names, lora.Layers, layers = names, []int{0, 2}, 2
		case "pattern":
			lora.Targets.Pattern = `model\.layers\.\d+\.(self_attn|mlp)\.(` + strings.Join(names, "|") + ")"
		}
		for _, name := range rapid.SliceOfDistinct(rapid.SampledFrom(blocks), rapid.ID).Draw(r, "patterns") {
			lora.Ranks = append(lora.Ranks, architecture.RankPattern{Pattern: name, Rank: len(lora.Ranks) + 1})
			lora.Alphas = append(lora.Alphas, architecture.AlphaPattern{Pattern: ".*" + name, Alpha: 0.25 * float64(len(name))})
		}
		m, err := models.Scratch(ctx, eng, cfg, 1)
		if err == nil {
			err = m.AddAdapter(ctx, lora, 1)
		}
		if err != nil {
			r.Fatal(err)
		}
		defer func() {
			if err := m.Close(ctx); err != nil {
				r.Error(err)
			}
		}()
		data, err := m.AdapterConfig()
		if err != nil {
			r.Fatal(err)
		}
		again, err := architecture.ParseLoRA(data)
		if diff := cmp.Diff(lora, again); diff != "" || err != nil {
			r.Fatalf("%v, (-written +read):\n%s\n%s", err, diff, data)
		}
		if got, want := len(m.Trainable()), 2*layers*len(names); got != want {
			r.Errorf("%d matrices, want %d", got, want)
		}
		change(t, m, 4)
		sequences := [][]int64{{3, 4, 5, 6, 7}}
		beside := logitsOf(t, m, sequences)[0]
		if err := m.MergeAdapter(ctx); err != nil {
			r.Fatal(err)
		}
		if d := largestDifference(beside, logitsOf(t, m, sequences)[0]); d > 1e-5 {
			r.Errorf("merging changes logits by %g", d)
		}
	})
}
