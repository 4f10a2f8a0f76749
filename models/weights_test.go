package models_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/models"
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

func TestSaveAndLoad(t *testing.T) {
	eng := newEngine(t, 1)
	for _, test := range []struct {
		golden string
		dtype  tensor.DType
	}{
		{"llama", tensor.Float32},
		{"llama-tied", tensor.Float32},
		{"llama-bf16", tensor.BFloat16},
		{"mistral", tensor.Float32},
		{"gpt2", tensor.Float32},
	} {
		t.Run(test.golden, func(t *testing.T) {
			first, dir := loadGolden(t, eng, test.golden, test.dtype), t.TempDir()
			save(t, first, dir)
			again, err := models.Load(context.Background(), eng, dir, models.Options{DType: test.dtype})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(first.Config(), again.Config()); diff != "" {
				t.Errorf("config (-saved +loaded):\n%s", diff)
			}
			if diff := cmp.Diff(bytesOf(t, first), bytesOf(t, again)); diff != "" {
				t.Errorf("weights (-saved +loaded):\n%s", diff)
			}
			// The names and bytes are those of the file that transformers wrote.
			theirs, err := safetensors.Open(filepath.Join("testdata", test.golden, "model.safetensors"))
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
				want[info.Name] = bytes.Clone(tensor.Data)
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
	if _, err := w.Close(); err != nil {
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
			if !errors.Is(err, models.ErrWeights) {
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
			if !errors.Is(err, models.ErrWeights) {
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
