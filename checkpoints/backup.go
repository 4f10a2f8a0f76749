package checkpoints

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

// Backup copies the checkpoints of a run into a folder: manifests, the blobs that they name, details, and the notes that
// retention writes when it removes weights. It verifies each blob while copying. A file that the folder already has is not
// copied again, so an interrupted backup can be resumed. The manifests of superseded states, and of policies whose weights
// were removed, are copied without those blobs. Backup calls onBytes with the size of each file that it has copied.
func (r *Repository) Backup(ctx context.Context, run, dir string, onBytes func(int64)) error {
	failed := func(err error) error { return fmt.Errorf("checkpoints: back up run %s: %w", run, err) }
	manifests, err := r.List(ctx, run)
	if err != nil {
		return failed(err)
	}
	for _, m := range manifests {
		for _, f := range m.Files {
			open := func() (io.ReadCloser, error) { return r.Open(ctx, run, f) }
			err := copyOnce(filepath.Join(dir, "blobs", f.SHA256), f.Bytes, onBytes, open)
			if errors.Is(err, ErrCorrupt) && m.Kind == State {
				continue // pruned
			}
			if err = r.explained(ctx, m, err); errors.Is(err, ErrExpired) {
				continue
			}
			if err != nil {
				return failed(err)
			}
		}
	}
	for _, beside := range []struct{ folder, prefix string }{{"details", detailKey(run, "")}, {"expired", expiredKey(run, "")}} {
		keys, err := r.store.List(ctx, beside.prefix)
		if err != nil {
			return failed(err)
		}
		for _, key := range keys {
			size, err := r.store.Stat(ctx, key)
			if err == nil {
				path := filepath.Join(dir, beside.folder, filepath.Base(key))
				err = copyOnce(path, size, onBytes, func() (io.ReadCloser, error) { return r.store.Get(ctx, key) })
			}
			if err != nil {
				return failed(err)
			}
		}
	}
	for _, m := range manifests { // last: what they name is there
		data, err := m.encode()
		if err == nil {
			path := filepath.Join(dir, "checkpoints", filepath.Base(m.Key))
			err = copyOnce(path, int64(len(data)), onBytes, func() (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(data)), nil
			})
		}
		if err != nil {
			return failed(err)
		}
	}
	return nil
}

// copyOnce writes a file, whole or not at all, unless one of that size already exists.
func copyOnce(path string, size int64, onBytes func(int64), open func() (io.ReadCloser, error)) error {
	if info, err := os.Stat(path); err == nil && info.Size() == size {
		return nil
	}
	in, err := open()
	if err != nil {
		return err
	}
	defer in.Close()
	var n int64
	err = WriteDurably(path, func(w io.Writer) (err error) {
		n, err = io.Copy(w, in)
		return err
	})
	if err == nil {
		onBytes(n)
	}
	return err
}

// WriteDurably writes a file of a backup, and its folder if necessary, for this user alone. The file is there whole or not at
// all, also after a power cut, and then for good.
func WriteDurably(path string, write func(io.Writer) error) (err error) {
	folder := filepath.Dir(path)
	defer func() {
		if diskFull(err) {
			err = writeError("a backup", folder, err)
		}
	}()
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	out, err := os.OpenFile(path+".partial", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err = write(out); err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err == nil {
		err = os.Rename(path+".partial", path)
	}
	if err != nil {
		return err
	}
	return errors.Join(syncFolder(folder), syncFolder(filepath.Dir(folder)))
}

// syncFolder makes the entries of a folder durable.
func syncFolder(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil && !errors.Is(err, syscall.EROFS) && runtime.GOOS != "windows" { // which cannot
		return err
	}
	return nil
}

// Restore copies the checkpoints of a backup into the store. It verifies each blob before storing it, and stores the
// manifests last and unchanged. It can be repeated. The error wraps ErrCorrupt and names the file if a file of the backup
// is damaged.
func (r *Repository) Restore(
	ctx context.Context, run, dir string, onBytes func(int64),
) error {
	failed := func(err error) error { return fmt.Errorf("checkpoints: restore run %s: %w", run, err) }
	for _, kind := range []struct{ folder, prefix string }{{"blobs", blobKey(run, "")}, {"details", detailKey(run, "")}} {
		names, err := filesIn(filepath.Join(dir, kind.folder))
		if err != nil {
			return failed(err)
		}
		for _, name := range names {
			if err := r.restoreFile(ctx, filepath.Join(dir, kind.folder, name), name, kind.prefix+name, onBytes); err != nil {
				return failed(err)
			}
		}
	}
	notes, err := filesIn(filepath.Join(dir, "expired"))
	if err != nil {
		return failed(err)
	}
	for _, name := range notes {
		if err := r.restoreNote(ctx, run, dir, name); err != nil {
			return failed(err)
		}
	}
	names, err := filesIn(filepath.Join(dir, "checkpoints"))
	if err != nil {
		return failed(err)
	}
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(dir, "checkpoints", name))
		if err != nil {
			return failed(err)
		}
		m, err := ParseManifest(manifestPrefix(run)+name, data)
		if err != nil {
			return failed(err)
		}
		if err := r.store.Create(ctx, m.Key, data); err != nil {
			return failed(err)
		}
	}
	return nil
}

// restoreNote restores the note that a checkpoint's weights were removed.
func (r *Repository) restoreNote(ctx context.Context, run, dir, digest string) error {
	f, err := os.Open(filepath.Join(dir, "expired", digest))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !validSHA256.MatchString(digest) || info.Size() > maxReason {
		return fmt.Errorf("%w: %s is not a note of a checkpoint", ErrCorrupt, f.Name())
	}
	return r.store.Put(ctx, expiredKey(run, digest), f, info.Size())
}

// restoreFile stores a file whose name is its sha256.
func (r *Repository) restoreFile(ctx context.Context, path, sum, key string, onBytes func(int64)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	hash := sha256.New()
	size, err := io.Copy(hash, contextReader{ctx, f})
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != sum {
		return fmt.Errorf("%w: %s has %d bytes with sha256 %s: take another copy of the backup", ErrCorrupt, path, size, got)
	}
	if have, err := r.has(ctx, key, size); have || err != nil {
		return err
	}
	if err := r.store.Put(ctx, key, io.NewSectionReader(f, 0, size), size); err != nil {
		return err
	}
	onBytes(size)
	return nil
}

// filesIn returns the sorted names of a folder's files, without the partial files of an interrupted backup. It returns none
// if the folder does not exist.
func filesIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() && !strings.HasSuffix(e.Name(), ".partial") {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}
