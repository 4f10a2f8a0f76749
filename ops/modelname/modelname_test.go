package modelname

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models/hub"
	"github.com/ldalign/ldalign/models/hub/hubtest"
	"github.com/ldalign/ldalign/schemas"
)

// store has the policies 0 to 2 of the run align.
type store struct{}

func (store) PolicyOf(_ context.Context, ref schemas.PolicyRef) (checkpoints.Manifest, error) {
	iteration := uint32(ref.Iteration)
	if ref.Newest() {
		iteration = 2
	}
	if ref.Run != "align" || iteration > 2 {
		return checkpoints.Manifest{}, checkpoints.ErrNoCheckpoint
	}
	return checkpoints.Manifest{Run: ref.Run, Iteration: iteration}, nil
}

func (store) Folder(_ context.Context, m checkpoints.Manifest) (string, error) {
	return fmt.Sprintf("cache/%s/%d", m.Run, m.Iteration), nil
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func TestFind(t *testing.T) {
	repository := &hubtest.Repository{Branches: []string{"main"}, Files: map[string][]byte{
		"config.json": []byte("{}"), "tokenizer.json": []byte("{}"), "model.safetensors": []byte("weights"),
	}}
	server := hubtest.New(map[string]*hubtest.Repository{"acme/tiny": repository})
	defer server.Close()
	dir := t.TempDir()
	whole, adapter, lost := filepath.Join(dir, "whole"), filepath.Join(dir, "adapter"), filepath.Join(dir, "lost")
	write(t, filepath.Join(whole, "config.json"), "{}")
	write(t, filepath.Join(adapter, "adapter_config.json"), `{"base_model_name_or_path": "align@1"}`)
	write(t, filepath.Join(lost, "adapter_config.json"), `{"base_model_name_or_path": null}`)
	opened, downloaded := 0, 0
	finder := Finder{
		Store: func(context.Context) (Store, error) {
			opened++
			return store{}, nil
		},
		Getenv:   func(key string) string { return map[string]string{"HF_ENDPOINT": server.URL, "HF_HOME": dir}[key] },
		Progress: func(hub.Progress) { downloaded++ },
	}
	for name, want := range map[string]Folder{
		whole:       {Dir: whole, Name: whole},
		"align@0":   {Dir: "cache/align/0", Name: "align@0"},
		"align@":    {Dir: "cache/align/2", Name: "align@2"},
		adapter:     {Dir: "cache/align/1", Name: adapter + " on align@1", Adapter: adapter},
		"acme/tiny": {Name: "acme/tiny@" + repository.Commit()},
	} {
		got, err := finder.Find(t.Context(), name)
		if want.Dir == "" { // the Hub's cache
			want.Dir = got.Dir
		}
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, want)
		}
	}
	if opened != 3 || downloaded == 0 {
		t.Errorf("the store was opened %d times, want 3; %d reports of a download", opened, downloaded)
	}
	for name, says := range map[string]string{
		"align@last":                        "whole number",
		"align@9":                           checkpoints.ErrNoCheckpoint.Error(),
		"nowhere":                           "there is no folder nowhere",
		lost:                                "does not name the model",
		filepath.Join(whole, "config.json"): "is not a folder",
	} {
		if got, err := finder.Find(t.Context(), name); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %+v, %v, want an error with %q", name, got, err, says)
		}
	}
	if _, err := finder.Find(t.Context(), "align@last"); !errors.Is(err, ErrName) {
		t.Errorf("the error %v is not ErrName", err)
	}
}

// The tokenizer beside an adapter comes before the base's; the configuration, which names the end tokens, is the base's.
func TestTokenizerBesideAnAdapter(t *testing.T) {
	base, adapter := t.TempDir(), t.TempDir()
	for _, name := range []string{"tokenizer.json", "config.json"} {
		write(t, filepath.Join(base, name), "base")
	}
	write(t, filepath.Join(adapter, "config.json"), "adapter")
	f := Folder{Dir: base, Adapter: adapter}
	check := func(dir, tokenizer string) {
		t.Helper()
		files, named := f.TokenizerFiles()
		for name, want := range map[string]string{"tokenizer.json": tokenizer, "config.json": "base"} {
			if got, err := fs.ReadFile(files, name); string(got) != want || err != nil || named != dir {
				t.Errorf("%s in %s: %q, %v, want %q", name, named, got, err, want)
			}
		}
	}
	check(base, "base")
	write(t, filepath.Join(adapter, "tokenizer.json"), "adapter")
	check(adapter, "adapter")
}
