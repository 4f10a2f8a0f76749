package runs

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/ops/runs/derive"
	"github.com/ldalign/ldalign/schemas"
)

func TestExport(t *testing.T) {
	w := newWorld(t)
	w.finished("align")
	_, err := w.Checkpoints.Commit(t.Context(), "align", checkpoints.Draft{
		Kind: checkpoints.Guide, Files: []checkpoints.Source{checkpoints.FromBytes("guide.json", []byte("{}"))},
	})
	w.must(err)
	for _, c := range []struct {
		iteration int
		kind      checkpoints.Kind
		file      string
		holds     string
	}{
		{-1, checkpoints.Policy, checkpoints.WeightsFile, "weights of policy 2"},
		{1, checkpoints.Policy, checkpoints.WeightsFile, "weights of policy 1"},
		{-1, checkpoints.Guide, "guide.json", "{}"},
	} {
		folder := filepath.Join(t.TempDir(), "exported")
		ref := schemas.PolicyRef{Run: "align", Iteration: c.iteration}
		m, err := Export(t.Context(), w.Session, ref, c.kind, folder)
		w.must(err)
		if data, err := os.ReadFile(filepath.Join(folder, c.file)); err != nil || string(data) != c.holds || m.Kind != c.kind {
			t.Errorf("%s of %s: %q, %v, want %q", c.kind, ref, data, err, c.holds)
		}
		if _, err := Export(t.Context(), w.Session, ref, c.kind, folder); !errors.Is(err, derive.ErrRequest) {
			t.Errorf("into a folder that exists: %v", err)
		}
	}
	ref := schemas.PolicyRef{Run: "align", Iteration: 7}
	if _, err := Export(t.Context(), w.Session, ref, checkpoints.Policy, filepath.Join(t.TempDir(), "none")); !errors.Is(err, checkpoints.ErrNoCheckpoint) {
		t.Errorf("policy 7: %v", err)
	}
}
