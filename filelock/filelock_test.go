package filelock_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/ldalign/ldalign/filelock"
)

// A lock excludes every other open file on the same path, and ends when its file is closed.
func TestTry(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	open := func() *os.File {
		t.Helper()
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	holder, other := open(), open()
	if err := filelock.Try(holder); err != nil {
		t.Fatal(err)
	}
	if _, err := holder.WriteString("a locked file can be written"); err != nil {
		t.Error(err)
	}
	if _, err := os.ReadFile(path); err != nil {
		t.Error(err)
	}
	if err := filelock.Try(other); !errors.Is(err, filelock.ErrHeld) {
		t.Errorf("a second lock: %v", err)
	}
	if err := holder.Close(); err != nil {
		t.Fatal(err)
	}
	if err := filelock.Try(other); err != nil {
		t.Errorf("after the first was closed: %v", err)
	}
}
