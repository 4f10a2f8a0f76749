package checkpoints_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/ldalign/ldalign/checkpoints"
)

// TestWriteDurably: a file is written whole or not at all, and for its owner alone.
func TestWriteDurably(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "backup")
	path := filepath.Join(folder, "backup.json")
	if err := checkpoints.WriteDurably(path, func(w io.Writer) error {
		_, err := io.WriteString(w, "whole")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	cut := errors.New("cut")
	if err := checkpoints.WriteDurably(path, func(w io.Writer) error {
		if _, err := io.WriteString(w, "ha"); err != nil {
			return err
		}
		return cut
	}); !errors.Is(err, cut) {
		t.Errorf("got %v, want the writer's error", err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "whole" {
		t.Errorf("after a write that failed the file holds %q (%v)", data, err)
	}
	for path, want := range map[string]os.FileMode{folder: 0o700 | os.ModeDir, path: 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s has mode %v, want %v (%v)", path, info.Mode(), want, err)
		}
	}
}
