package models_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/safetensors"
	"github.com/ldalign/ldalign/models/tensor"
)

// save writes a model as a Hugging Face folder.
func save(t *testing.T, m *models.Model, dir string) {
	t.Helper()
	config, err := m.Config().JSON()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), config, 0o644); err != nil {
		t.Fatal(err)
	}
	var weights bytes.Buffer
	if err := m.WriteWeights(context.Background(), &weights); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "model.safetensors"), weights.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// bytesOf are all weights, by name.
func bytesOf(t *testing.T, m *models.Model) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	do(t, m.Engine(), func(*tensor.Scope) error {
		for _, p := range m.Params() {
			all[p.Name] = p.Tensor.Bytes()
		}
		return nil
	})
	return all
}

// dtypeOf is the type of a golden's weights.
func dtypeOf(golden string) tensor.DType {
	switch {
	case strings.HasSuffix(golden, "-bf16"):
		return tensor.BFloat16
	case strings.HasSuffix(golden, "-f16"):
		return tensor.Float16
	}
	return tensor.Float32
}

// A model that is saved and loaded is the same, and holds the tensors that transformers wrote. With -keep it stays for
// make_goldens.py to open with transformers.
func TestSaveAndLoad(t *testing.T) {
	eng := newEngine(t, 1)
	for _, golden := range goldens {
		t.Run(golden, func(t *testing.T) {
			first, dir := loadGolden(t, eng, golden, dtypeOf(golden)), t.TempDir()
			if *keep != "" {
				if dir = filepath.Join(*keep, "models", golden); os.MkdirAll(dir, 0o755) != nil {
					t.Fatal(dir)
				}
			}
			save(t, first, dir)
			again, err := models.Load(context.Background(), eng, dir, models.Options{DType: dtypeOf(golden)})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(first.Config(), again.Config()); diff != "" {
				t.Errorf("config (-saved +loaded):\n%s", diff)
			}
			if diff := cmp.Diff(bytesOf(t, first), bytesOf(t, again)); diff != "" {
				t.Errorf("weights (-saved +loaded):\n%s", diff)
			}
			theirs, err := safetensors.OpenModel(filepath.Join("testdata", golden))
			if err != nil {
				t.Fatal(err)
			}
			defer theirs.Close()
			want := map[string][]byte{}
			for _, info := range theirs.Tensors() {
				tensor, err := theirs.Tensor(info.Name)
				if err != nil {
					t.Fatal(err)
				}
				name := info.Name
				if golden == "gemma3-images" { // the text model within
					var ok bool
					if name, ok = strings.CutPrefix(name, "language_model."); !ok {
						continue
					}
				}
				want[name] = bytes.Clone(tensor.Data)
			}
			if diff := cmp.Diff(want, bytesOf(t, again)); diff != "" {
				t.Errorf("weights (-transformers +ours):\n%s", diff)
			}
		})
	}
}

func TestLoadFromShardsAndOldNames(t *testing.T) {
	eng := newEngine(t, 1)
	m, dir := loadGolden(t, eng, "gpt2", tensor.Float32), t.TempDir()
	save(t, m, dir)
	// The first GPT-2 files have no prefix, and carry their causal masks.
	weights := bytesOf(t, m)
	index := `{"weight_map": {`
	for i, p := range m.Params() {
		name := strings.TrimPrefix(p.Name, "transformer.")
		file := "even.safetensors"
		if i%2 == 1 {
			file = "odd.safetensors"
		}
		index += `"` + name + `": "` + file + `", `
	}
	index += `"h.0.attn.bias": "odd.safetensors"}}`
	for k, file := range []string{"even.safetensors", "odd.safetensors"} {
		var infos []safetensors.Info
		var data [][]byte
		do(t, eng, func(*tensor.Scope) error {
			for i, p := range m.Params() {
				if i%2 == k {
					infos = append(infos, safetensors.Info{
						Name: strings.TrimPrefix(p.Name, "transformer."), DType: safetensors.F32, Shape: p.Tensor.Shape(),
					})
					data = append(data, weights[p.Name])
				}
			}
			return nil
		})
		if k == 1 {
			infos = append(infos, safetensors.Info{Name: "h.0.attn.bias", DType: safetensors.U8, Shape: []int64{1, 1, 2, 2}})
			data = append(data, make([]byte, 4))
		}
		writeTensors(t, filepath.Join(dir, file), infos, data)
	}
	if err := os.Remove(filepath.Join(dir, "model.safetensors")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "model.safetensors.index.json"), []byte(index), 0o644); err != nil {
		t.Fatal(err)
	}
	again, err := models.Load(context.Background(), eng, dir, models.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(weights, bytesOf(t, again)); diff != "" {
		t.Errorf("weights (-saved +loaded):\n%s", diff)
	}
}

func writeTensors(t *testing.T, path string, infos []safetensors.Info, data [][]byte) {
	t.Helper()
	w, err := safetensors.Create(path, infos, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	for i, info := range infos {
		if err := w.Write(info.Name, data[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// rewritten is a golden's folder whose weights went through edit.
func rewritten(
	t *testing.T, golden string, edit func(infos []safetensors.Info, data [][]byte) ([]safetensors.Info, [][]byte),
) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", golden))); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "model.safetensors")
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	infos := f.Tensors()
	var data [][]byte
	for _, info := range infos {
		tensor, err := f.Tensor(info.Name)
		if err != nil {
			t.Fatal(err)
		}
		data = append(data, bytes.Clone(tensor.Data))
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	infos, data = edit(infos, data)
	writeTensors(t, path, infos, data)
	return dir
}

func TestLoadTellsWhatDoesNotFit(t *testing.T) {
	type infos = []safetensors.Info
	const name = "model.layers.1.mlp.up_proj.weight"
	at := func(list infos) int {
		return slices.IndexFunc(list, func(i safetensors.Info) bool { return i.Name == name })
	}
	for _, test := range []struct {
		what string
		edit func(list infos, data [][]byte) (infos, [][]byte)
		want []string
	}{
		{"missing", func(list infos, data [][]byte) (infos, [][]byte) {
			i := at(list)
			return slices.Delete(list, i, i+1), slices.Delete(data, i, i+1)
		}, []string{"missing: " + name}},
		{"unknown", func(list infos, data [][]byte) (infos, [][]byte) {
			return append(list, safetensors.Info{Name: "model.layers.7.extra", DType: safetensors.F32, Shape: []int64{1}}),
				append(data, make([]byte, 4))
		}, []string{"unknown: model.layers.7.extra"}},
		{"another shape", func(list infos, data [][]byte) (infos, [][]byte) {
			list[at(list)].Shape = []int64{32, 56}
			return list, data
		}, []string{name, "[32 56]", "[56 32]"}},
		{"another type", func(list infos, data [][]byte) (infos, [][]byte) {
			list[at(list)].DType = safetensors.I32
			return list, data
		}, []string{name, "I32"}},
	} {
		t.Run(test.what, func(t *testing.T) {
			eng := newEngine(t, 1)
			dir := rewritten(t, "llama", test.edit)
			_, err := models.Load(context.Background(), eng, dir, models.Options{})
			if !errors.Is(err, architecture.ErrWeights) {
				t.Fatalf("error %v, want ErrWeights", err)
			}
			for _, text := range append(test.want, dir) {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("error %q does not tell %q", err, text)
				}
			}
			m := loadGolden(t, eng, "llama", tensor.Float32)
			before := bytesOf(t, m)
			err = m.LoadWeights(context.Background(), filepath.Join(dir, "model.safetensors"))
			if !errors.Is(err, architecture.ErrWeights) {
				t.Errorf("LoadWeights: error %v, want ErrWeights", err)
			}
			if diff := cmp.Diff(before, bytesOf(t, m)); diff != "" {
				t.Errorf("a refused file changed the model:\n%s", diff)
			}
		})
	}
}

func TestLoadErrors(t *testing.T) {
	eng := newEngine(t, 1)
	ctx := context.Background()
	if _, err := models.Load(ctx, eng, t.TempDir(), models.Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("empty folder: error %v, want fs.ErrNotExist", err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/llama")); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "model.safetensors")
	if err := os.Truncate(path, 50_000); err != nil {
		t.Fatal(err)
	}
	if _, err := models.Load(ctx, eng, dir, models.Options{}); !errors.Is(err, safetensors.ErrTruncated) {
		t.Errorf("truncated file: error %v, want ErrTruncated", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := models.Load(ctx, eng, dir, models.Options{}); !errors.Is(err, safetensors.ErrNotFound) {
		t.Errorf("no weights: error %v, want ErrNotFound", err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := models.Load(cancelled, eng, "testdata/llama", models.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: error %v, want context.Canceled", err)
	}
	if _, err := models.Load(ctx, eng, "testdata/llama", models.Options{DType: tensor.Int64}); err == nil {
		t.Error("a model in int64 loads")
	}
	if n := eng.Live(); n != 0 {
		t.Errorf("%d tensors are left of models that did not load", n)
	}
}

// Numbers that are not finite are found when they are loaded, in every type, plain and packed, and told by the tensor's
// name; the model stays what it was.
func TestLoadFindsNumbersThatAreNotFinite(t *testing.T) {
	eng := newEngine(t, 2)
	ctx := context.Background()
	for _, test := range []struct {
		golden, weight string
		bits           []byte // little endian
	}{
		{"llama", "model.layers.1.mlp.up_proj.weight", []byte{0, 0, 0xc0, 0x7f}},                 // NaN
		{"llama", "model.norm.weight", []byte{0, 0, 0x80, 0xff}},                                 // -Inf
		{"llama-bf16", "lm_head.weight", []byte{0x80, 0x7f}},                                     // Inf
		{"llama3-f16", "model.layers.0.self_attn.q_proj.weight", []byte{0x01, 0x7c}},             // NaN
		{"gpt2", "transformer.h.0.mlp.c_fc.bias", []byte{1, 0, 0x80, 0x7f}},                      // NaN
		{"qwen2-window-bf16", "model.layers.1.self_attn.v_proj.bias", []byte{0xff, 0xff}},        // NaN
		{"gemma3", "model.layers.2.post_feedforward_layernorm.weight", []byte{0, 0, 0x80, 0x7f}}, // Inf
	} {
		dir := rewritten(t, test.golden, func(infos []safetensors.Info, data [][]byte) ([]safetensors.Info, [][]byte) {
			i := slices.IndexFunc(infos, func(i safetensors.Info) bool { return i.Name == test.weight })
			copy(data[i][5*len(test.bits):], test.bits)
			return infos, data
		})
		for _, packed := range []bool{false, true} {
			_, err := models.Load(ctx, eng, dir, models.Options{Packed: packed})
			for _, text := range []string{test.weight, "element 5 ", dir} {
				if !errors.Is(err, models.ErrNotFinite) || !strings.Contains(err.Error(), text) {
					t.Errorf("%s, packed %t: error %v, want ErrNotFinite that tells %q", test.golden, packed, err, text)
				}
			}
		}
		if n := eng.Live(); n != 0 {
			t.Fatalf("%d tensors are left of models that did not load", n)
		}
		m := loadGolden(t, eng, test.golden, tensor.Float32)
		if err := m.LoadWeights(ctx, filepath.Join(dir, "model.safetensors")); !errors.Is(err, models.ErrNotFinite) {
			t.Errorf("LoadWeights: error %v, want ErrNotFinite", err)
		}
		if err := m.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// What is wrong with a folder is told in one line.
func TestLoadTellsOfBadFiles(t *testing.T) {
	eng := newEngine(t, 1)
	for _, test := range []struct {
		what, golden string
		edit         func(dir string) error
		want         error
		says         string
	}{
		{"a missing shard", "qwen3-shards", func(dir string) error {
			return os.Remove(filepath.Join(dir, "model-00002-of-00003.safetensors"))
		}, safetensors.ErrNotFound, "model-00002-of-00003.safetensors"},
		{"an empty shard", "qwen3-shards", func(dir string) error {
			return os.Truncate(filepath.Join(dir, "model-00002-of-00003.safetensors"), 0)
		}, safetensors.ErrTruncated, "model-00002-of-00003.safetensors"},
		{"a shard that is cut off", "qwen3-shards", func(dir string) error {
			return os.Truncate(filepath.Join(dir, "model-00003-of-00003.safetensors"), 5000)
		}, safetensors.ErrTruncated, "model-00003-of-00003.safetensors"},
		{"an empty index", "qwen3-shards", func(dir string) error {
			return os.Truncate(filepath.Join(dir, "model.safetensors.index.json"), 0)
		}, safetensors.ErrFormat, "model.safetensors.index.json"},
		{"empty weights", "llama", func(dir string) error {
			return os.Truncate(filepath.Join(dir, "model.safetensors"), 0)
		}, safetensors.ErrTruncated, "model.safetensors"},
		{"an empty configuration", "llama", func(dir string) error {
			return os.Truncate(filepath.Join(dir, "config.json"), 0)
		}, architecture.ErrConfig, "empty"},
	} {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", test.golden))); err != nil {
			t.Fatal(err)
		}
		if err := test.edit(dir); err != nil {
			t.Fatal(err)
		}
		_, err := models.Load(context.Background(), eng, dir, models.Options{})
		if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %v, want %v in one line that says %q", test.what, err, test.want, test.says)
		}
	}
}

// A token that is not in the vocabulary is told, in training and by token, plain and packed.
func TestTokenOutsideTheVocabulary(t *testing.T) {
	ctx := context.Background()
	m := loadGolden(t, newEngine(t, 1), "llama", tensor.Float32)
	check := func(id int64, f func(s *tensor.Scope) error) {
		t.Helper()
		err := m.Engine().Do(ctx, f)
		if want := fmt.Sprintf("token %d is not in the vocabulary of 64", id); !errors.Is(err, models.ErrSequence) ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want ErrSequence that says %q", err, want)
		}
	}
	for _, id := range []int64{-1, 64} {
		check(id, func(s *tensor.Scope) error {
			models.TrainLogProbs(s, m, []models.Sequence{{IDs: []int64{3, 4, id}, PromptLen: 1}}, models.Compute{})
			return nil
		})
	}
	for range 2 {
		check(64, func(s *tensor.Scope) error {
			c := m.NewCache(s, architecture.CacheSize{Slots: 1, Length: 4, Burst: 1})
			defer c.Free()
			c.Step(s, []models.Token{{ID: 64}}, 0)
			return nil
		})
		if err := m.Pack(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLoadWeightsReplacesInPlace(t *testing.T) {
	eng := newEngine(t, 1)
	ctx := context.Background()
	m, dir := loadGolden(t, eng, "llama", tensor.Float32), t.TempDir()
	other, err := models.Scratch(ctx, eng, m.Config(), 5)
	if err != nil {
		t.Fatal(err)
	}
	save(t, other, dir)
	if err := m.SetTrainable(ctx, true); err != nil { // as the trainer's model is
		t.Fatal(err)
	}
	params := m.Params()
	if err := m.LoadWeights(ctx, filepath.Join(dir, "model.safetensors")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(bytesOf(t, other), bytesOf(t, m)); diff != "" {
		t.Errorf("weights (-file +model):\n%s", diff)
	}
	for i, p := range m.Params() {
		if p != params[i] {
			t.Errorf("%s is another tensor than before", p.Name)
		}
	}
}

func TestCloneIsIndependent(t *testing.T) {
	eng := newEngine(t, 1)
	ctx := context.Background()
	m := loadGolden(t, eng, "gpt2", tensor.Float32)
	before := bytesOf(t, m)
	c, err := m.Clone(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, bytesOf(t, c)); diff != "" {
		t.Errorf("weights (-model +clone):\n%s", diff)
	}
	do(t, eng, func(*tensor.Scope) error {
		for _, p := range c.Params() {
			p.Tensor.Fill_(1)
		}
		return nil
	})
	if err := c.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, bytesOf(t, m)); diff != "" {
		t.Errorf("the clone changed the model:\n%s", diff)
	}
}

func TestCloseFreesEverything(t *testing.T) {
	eng := newEngine(t, 1)
	for _, name := range goldens {
		if err := loadGolden(t, eng, name, tensor.Float32).Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		if n := eng.Live(); n != 0 {
			t.Errorf("%s: %d tensors are left", name, n)
		}
	}
	m := loadGolden(t, eng, "llama", tensor.Float32)
	if err := eng.Close(); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(context.Background()); err != nil {
		t.Errorf("Close after the engine's: %v", err)
	}
}
