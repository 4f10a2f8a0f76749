package checkpoints_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/checkpoints/storetest"
)

func openDir(t *testing.T) checkpoints.Store {
	t.Helper()
	store, err := checkpoints.OpenDir(filepath.Join(t.TempDir(), "new", "store"))
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func TestDirectory(t *testing.T) { storetest.Run(t, openDir) }

func TestDirectoryObjectsAreReadOnlyFiles(t *testing.T) {
	root := t.TempDir()
	store, err := checkpoints.OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Put(t.Context(), "runs/a/blobs/1", strings.NewReader("one"), 3); err != nil {
		t.Fatal(err)
	}
	if err := store.Create(t.Context(), "runs/a/checkpoints/1.json", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"runs/a/blobs/1": "one", "runs/a/checkpoints/1.json": "{}"} {
		path = filepath.Join(root, path)
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != 0o400 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s holds %q (%v)", path, got, err)
		}
	}
	if files := temporaryFiles(t, root); len(files) > 0 {
		t.Errorf("temporary files are left: %q", files)
	}
}

// A process that opens the store must not remove the temporary files of another running process.
func TestDirectoryOpenLeavesLiveWritersAlone(t *testing.T) {
	root := t.TempDir()
	first, err := checkpoints.OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	opens := readerFunc(func(p []byte) (int, error) {
		if _, err := checkpoints.OpenDir(root); err != nil { // in the middle of the first one's Put
			return 0, err
		}
		return copy(p, "one"), nil
	})
	if err := first.Put(t.Context(), "a", limit(opens, 3), 3); err != nil {
		t.Errorf("Put during which the store was opened again: %v", err)
	}
}

func TestDirectoryOpenRemovesWhatDeadWritersLeft(t *testing.T) {
	root := t.TempDir()
	left := filepath.Join(root, ".tmp", "writer-1")
	if err := os.MkdirAll(left, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(left, "half"), []byte("half a blob"), 0o600); err != nil {
		t.Fatal(err)
	}
	store, err := checkpoints.OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	if files := temporaryFiles(t, root); len(files) > 0 {
		t.Errorf("temporary files are left: %q", files)
	}
	if keys, err := store.List(t.Context(), ""); err != nil || len(keys) > 0 {
		t.Errorf("got keys %q (%v)", keys, err)
	}
}

func TestDirectoryForeignFilesAreNoObjects(t *testing.T) {
	root := t.TempDir()
	store, err := checkpoints.OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Put(t.Context(), "a/b", strings.NewReader(""), 0); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a/.DS_Store", "a/my notes.txt", ".config"} {
		if err := os.WriteFile(filepath.Join(root, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(root, "a", "link")); err != nil {
		t.Fatal(err)
	}
	keys, err := store.List(t.Context(), "")
	if diff := cmp.Diff([]string{"a/b"}, keys); diff != "" || err != nil {
		t.Errorf("List (-want +got): %v\n%s", err, diff)
	}
}

func TestOpenDirNamesTheFolderThatCannotBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, filepath.Join(file, "below")} {
		if _, err := checkpoints.OpenDir(path); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("OpenDir(%s): got %v, want an error that names it", path, err)
		}
	}
}

// temporaryFiles lists the files (not folders) below the store's .tmp.
func temporaryFiles(t *testing.T, root string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(filepath.Join(root, ".tmp"), func(path string, e os.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err == nil && !e.IsDir() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
