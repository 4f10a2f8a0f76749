package schemas_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/ldalign/ldalign/schemas"
)

// Paths of a spec are relative to its file. Values that only look like a path do not change.
func TestLoadRuns(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "run.yaml")
	text := "run: a\nmodel: {from: base}\ndata: {train: \"x.jsonl, /y.jsonl\", eval: builtin:demo/heldout}\n" +
		"guide: {encoder: policy, decoder: \"scratch:1\"}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	specs, err := schemas.LoadRuns(file, []string{"guide.encoder=small", "iterations=7"})
	if err != nil {
		t.Fatal(err)
	}
	s := specs[0]
	for _, c := range []struct{ got, want string }{
		{s.Model.From, filepath.Join(dir, "base")},
		{s.Data.Train, filepath.Join(dir, "x.jsonl") + ",/y.jsonl"},
		{s.Data.Eval, "builtin:demo/heldout"},
		{s.Guide.Encoder, filepath.Join(dir, "small")},
		{s.Guide.Decoder, "scratch:1"},
	} {
		if c.got != c.want {
			t.Errorf("got %s, want %s", c.got, c.want)
		}
	}
	if s.Iterations != 7 {
		t.Errorf("%d iterations", s.Iterations)
	}
	if _, err := schemas.LoadRuns(file, []string{"iterations=many"}); err == nil {
		t.Error("a wrong change was taken")
	}
	if _, err := schemas.ResolveAll(specs); err != nil {
		t.Error(err)
	}
}
