package checkpoints

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/ldalign/ldalign/filelock"
)

// scratch creates temporary files in its own folder below root. The process locks the folder as long as it lives, and the
// kernel drops the lock however the process ends. So another process can recognise and remove what a dead one left. Where
// folders cannot be locked, as on Windows, nothing is removed.
type scratch struct {
	root string

	mu  sync.Mutex
	dir *os.File // open and locked; nil before the first file
}

// create creates an empty temporary file. The caller renames or removes it.
func (s *scratch) create() (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir == nil {
		dir, err := s.open()
		if err != nil {
			return nil, err
		}
		s.dir = dir
	}
	return os.CreateTemp(s.dir.Name(), "")
}

func (s *scratch) open() (*os.File, error) {
	if err := os.MkdirAll(s.root, 0o700); err != nil {
		return nil, err
	}
	for {
		path, err := os.MkdirTemp(s.root, "writer-")
		if err != nil {
			return nil, err
		}
		dir, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // swept before it could be opened
		}
		if err != nil {
			return nil, err
		}
		err = filelock.Try(dir)
		if err != nil && !errors.Is(err, filelock.ErrHeld) && !errors.Is(err, errors.ErrUnsupported) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), dir.Close())
		}
		if !errors.Is(err, filelock.ErrHeld) && s.same(dir) {
			return dir, nil
		}
		_ = dir.Close() // another process swept the new folder before it was locked
	}
}

// same reports whether the open folder is still the one at its path.
func (s *scratch) same(dir *os.File) bool {
	opened, err := dir.Stat()
	if err != nil {
		return false
	}
	found, err := os.Stat(dir.Name())
	return err == nil && os.SameFile(opened, found)
}

// sweep removes the temporary files of processes that have ended. It ignores a file that cannot be removed.
func (s *scratch) sweep() {
	entries, err := os.ReadDir(s.root)
	if err != nil {
		return // nothing was ever written here, or it is not ours to read
	}
	for _, e := range entries {
		dir, err := os.Open(filepath.Join(s.root, e.Name()))
		if err != nil {
			continue
		}
		if filelock.Try(dir) == nil {
			_ = os.RemoveAll(dir.Name())
		}
		_ = dir.Close()
	}
}

// discard closes and removes a temporary file; after a rename it only closes.
func discard(f *os.File) {
	_ = f.Close()
	_ = os.Remove(f.Name())
}
