package runs

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
)

// heir declares a run that replays another one.
func (w world) heir(run, source string) schemas.Spec {
	w.t.Helper()
	parent := w.spec(source)
	policy, err := w.Checkpoints.Policy(w.t.Context(), source, 0)
	w.must(err)
	spec := w.spec(run)
	spec.Evaluation.First, spec.Iterations = 1, 1
	spec.Source = &schemas.SourceSpec{
		Run: source, From: "scored", OffPolicy: schemas.RefuseOffPolicy, Policy: policy.Digest, First: 1, Last: pairsPerIteration,
		Spec: parent.Digest(),
	}
	w.must(spec.Validate())
	w.declare(spec)
	return spec
}

func TestDelete(t *testing.T) {
	w := newWorld(t)
	w.finished("align")
	w.must(os.MkdirAll(w.ReportDir("align"), 0o755))
	w.heir("again", "align")
	if _, err := Delete(t.Context(), w.Session, "align", true); err == nil || !strings.Contains(err.Error(), "run again needs run align as its source.run") {
		t.Errorf("a run that another one names: %v", err)
	}
	if _, err := Delete(t.Context(), w.Session, "again", false); err != nil {
		t.Fatal(err)
	}
	heartbeat := w.Streams.Announce(t.Context(), "align", "generator")
	if _, err := Delete(t.Context(), w.Session, "align", false); !errors.Is(err, streams.ErrAtWork) {
		t.Errorf("a run that somebody works on: %v", err)
	}
	heartbeat.Close()
	dry, err := Delete(t.Context(), w.Session, "align", true)
	if err != nil || dry.Deleted || dry.Messages[schemas.Scored] != 2*pairsPerIteration || dry.Checkpoints != 3 || dry.Objects <= 3 || dry.Bytes == 0 {
		t.Errorf("dry: %+v, %v", dry, err)
	}
	if len(w.count("align")) == 0 {
		t.Error("a dry deletion has deleted")
	}
	done, err := Delete(t.Context(), w.Session, "align", false)
	if dry.Deleted = true; err != nil || !equalJSON(t, dry, done) {
		t.Errorf("deleted: %+v, %v, told before: %+v", done, err, dry)
	}
	_, reports := os.Stat(w.ReportDir("align"))
	if left := w.count("align"); len(left) > 0 || !errors.Is(reports, os.ErrNotExist) {
		t.Errorf("left: %v, reports: %v", left, reports)
	}
	if _, err := Delete(t.Context(), w.Session, "align", false); !errors.Is(err, ErrNoSuchRun) {
		t.Errorf("once more: %v", err)
	}
	w.finished("align") // the name is free
}

func equalJSON(t *testing.T, a, b any) bool {
	t.Helper()
	x, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(x) == string(y)
}

func TestNamedAs(t *testing.T) {
	for set, key := range map[string]string{
		"model.from=run:align@2": "model.from", "guide.from=run:align": "guide.from", "evaluation.guide=run:align": "evaluation.guide",
		"model.from=run:align-2": "", "model.from=align": "",
	} {
		var spec schemas.Spec
		if err := schemas.Set(&spec, set); err != nil {
			t.Fatal(err)
		}
		if got := namedAs(spec, "align"); got != key {
			t.Errorf("%s names the run as %q, want %q", set, got, key)
		}
	}
}

func TestPrune(t *testing.T) {
	w := newWorld(t)
	spec := w.finished("align")
	w.heir("again", "align")
	keep := schemas.RetentionSpec{Messages: 1, Policies: 1}
	dry, err := Prune(t.Context(), w.Session, spec, keep, "by hand", true)
	w.must(err)
	text, err := json.Marshal(dry)
	w.must(err)
	want := `{"run":"align","iterations":[0],"messages":12,"policies":[1],"files":1,"bytes":19,"stays":[` +
		`{"what":"scored","iteration":0,"why":"run again replays them"},{"what":"policy","iteration":0,"why":"run again starts from it"}],"removed":false}`
	if string(text) != want {
		t.Errorf("dry:\n%s, want\n%s", text, want)
	}
	held, err := w.Streams.AcquireLease(t.Context(), "align", "somebody", leaseTTL)
	w.must(err)
	if _, err := Prune(t.Context(), w.Session, spec, keep, "by hand", false); !errors.As(err, new(*streams.ErrHeld)) {
		t.Errorf("while a trainer works: %v", err)
	}
	w.must(held.Release())
	done, err := Prune(t.Context(), w.Session, spec, keep, "by hand", false)
	if err != nil || !done.Done || done.Messages != dry.Messages || w.count("align")[schemas.Scored] != 2*pairsPerIteration ||
		w.count("align")[schemas.Prompts] != pairsPerIteration {
		t.Errorf("done: %+v, %v, left: %v", done, err, w.count("align"))
	}
	nothing, err := Prune(t.Context(), w.Session, spec, keep, "by hand", false)
	w.must(err)
	if text, err := json.Marshal(nothing); err != nil || !strings.Contains(string(text), `"iterations":[],"messages":0,"policies":[]`) {
		t.Errorf("once more: %s, %v", text, err)
	}
}

func TestRemoveUnnamed(t *testing.T) {
	w := newWorld(t)
	w.finished("align")
	w.finished("other")
	orphan := filepath.Join(w.Dir, "runs", "align", "blobs", strings.Repeat("ab", 32))
	w.must(os.WriteFile(orphan, []byte("left behind"), 0o644))
	lease, err := w.Streams.AcquireLease(t.Context(), "other", "somebody", leaseTTL)
	w.must(err)
	sweep := func(ctx context.Context, dry bool) string {
		t.Helper()
		all, err := RemoveUnnamed(ctx, w.Session, nil, 0, dry)
		w.must(err)
		text, err := json.Marshal(all)
		w.must(err)
		return string(text)
	}
	other := `{"run":"other","blobs":0,"bytes":0,"young":0,"removed":false,"held":"somebody"}`
	if got, want := sweep(t.Context(), true), `[{"run":"align","blobs":1,"bytes":11,"young":0,"removed":false},`+other+`]`; got != want {
		t.Errorf("dry: %s, want %s", got, want)
	}
	if got, want := sweep(t.Context(), false), `[{"run":"align","blobs":1,"bytes":11,"young":0,"removed":true},`+other+`]`; got != want {
		t.Errorf("done: %s, want %s", got, want)
	}
	w.must(lease.Release())
	if got := sweep(t.Context(), false); strings.Contains(got, "held") || strings.Contains(got, `"blobs":1`) {
		t.Errorf("nothing is left: %s", got)
	}
}
