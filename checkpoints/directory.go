package checkpoints

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// directory is the store in a folder of a local file system: the object with key a/b is the file a/b. Objects are
// written to .tmp, synced, and renamed or linked into place, and the folder is synced; files are read-only from then
// on.
type directory struct {
	root    string
	scratch scratch

	mu   sync.Mutex
	made map[string]bool // folders known to be durable in their parents
}

const temporary = ".tmp" // no key segment starts with a dot

// OpenDir opens the store in a folder. It creates the folder if necessary, and removes the temporary files of processes that
// were killed. The file system must support hard links and flock, as local ones do.
func OpenDir(path string) (Store, error) {
	root, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("checkpoints: store %s: %w", path, err)
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("checkpoints: store %s: %w", path, err)
	}
	if _, err := os.ReadDir(root); err != nil {
		return nil, fmt.Errorf("checkpoints: store %s: %w", path, err)
	}
	d := &directory{root: root, scratch: scratch{root: filepath.Join(root, temporary)}, made: map[string]bool{}}
	d.scratch.sweep()
	return d, nil
}

func (d *directory) Put(ctx context.Context, key string, r io.Reader, size int64) error {
	if err := checkKey(key); err != nil {
		return err
	}
	f, err := d.write(ctx, key, r, size)
	if err != nil {
		return err
	}
	return d.adopt(ctx, key, f)
}

func (d *directory) Create(ctx context.Context, key string, data []byte) error {
	if err := checkKey(key); err != nil {
		return err
	}
	f, err := d.write(ctx, key, bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return err
	}
	defer discard(f)
	if err := d.seal(ctx, key, f); err != nil {
		return err
	}
	err = os.Link(f.Name(), d.path(key))
	if errors.Is(err, fs.ErrExist) {
		found, err := os.ReadFile(d.path(key))
		if err != nil {
			return fmt.Errorf("checkpoints: create %s: %w", key, err)
		}
		if !bytes.Equal(found, data) {
			return fmt.Errorf("%w: %s", ErrExists, key)
		}
	} else if err != nil {
		return writeError(key, d.root, err)
	}
	return d.sync(path.Dir(key))
}

func (d *directory) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	f, err := d.open(ctx, key)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{contextReader{ctx, f}, f}, nil
}

func (d *directory) Stat(ctx context.Context, key string) (int64, error) {
	f, err := d.open(ctx, key)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("checkpoints: stat %s: %w", key, err)
	}
	// The writer may have died between its rename and its sync of the folder.
	return info.Size(), d.sync(path.Dir(key))
}

func (d *directory) List(ctx context.Context, prefix string) ([]string, error) {
	if err := checkPrefix(prefix); err != nil {
		return nil, err
	}
	start := d.root
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		start = d.path(prefix[:i])
	}
	var keys []string
	err := filepath.WalkDir(start, func(name string, e fs.DirEntry, err error) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			return nil // no such folder, or removed meanwhile
		}
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(d.root, name)
		if err != nil {
			return err
		}
		key := filepath.ToSlash(relative)
		if e.IsDir() {
			if key == temporary {
				return fs.SkipDir
			}
			return nil
		}
		if e.Type().IsRegular() && strings.HasPrefix(key, prefix) && checkKey(key) == nil {
			keys = append(keys, key)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("checkpoints: list %s in %s: %w", prefix, d.root, err)
	}
	slices.Sort(keys)
	return keys, nil
}

func (d *directory) Delete(ctx context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := os.Remove(d.path(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("checkpoints: delete %s: %w", key, err)
	}
	return nil
}

// stage creates a temporary file that adopt can turn into an object without copying it.
func (d *directory) stage() (*os.File, error) {
	f, err := d.scratch.create()
	if err != nil {
		return nil, writeError("a temporary file", d.root, err)
	}
	return f, nil
}

// adopt turns a staged file into the object with the key. The staged file is gone afterwards, even if adopt fails.
func (d *directory) adopt(ctx context.Context, key string, f *os.File) error {
	defer discard(f)
	if err := checkKey(key); err != nil {
		return err
	}
	if err := d.seal(ctx, key, f); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), d.path(key)); err != nil {
		return writeError(key, d.root, err)
	}
	return d.sync(path.Dir(key))
}

// local returns the path of an object's file.
func (d *directory) local(key string) string { return d.path(key) }

// write writes the bytes of r to a temporary file.
func (d *directory) write(ctx context.Context, key string, r io.Reader, size int64) (*os.File, error) {
	if size < 0 {
		return nil, fmt.Errorf("%w: %s: %d bytes announced", ErrSize, key, size)
	}
	f, err := d.stage()
	if err != nil {
		return nil, err
	}
	n, err := io.Copy(f, io.LimitReader(contextReader{ctx, r}, size+1))
	if err == nil && n != size {
		err = fmt.Errorf("%w: %s: %d bytes announced, the reader holds %s", ErrSize, key, size, held(n, size))
	} else if err != nil {
		err = writeError(key, d.root, err)
	}
	if err != nil {
		discard(f)
		return nil, err
	}
	return f, nil
}

func held(n, size int64) string {
	if n > size {
		return "more"
	}
	return fmt.Sprint(n)
}

// seal makes the temporary file's bytes durable and read-only, and makes the key's folder.
func (d *directory) seal(ctx context.Context, key string, f *os.File) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := f.Chmod(0o400); err != nil {
		return writeError(key, d.root, err)
	}
	if err := f.Sync(); err != nil {
		return writeError(key, d.root, err)
	}
	if err := d.makeFolder(path.Dir(key)); err != nil {
		return writeError(key, d.root, err)
	}
	return nil
}

// makeFolder creates a key's folder and its parents. Once per process it also syncs each of them, because the process that
// created the folder may have died before its sync. It creates a folder again that was removed since, as DeleteRun does.
func (d *directory) makeFolder(folder string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.makeFolderLocked(folder)
}

func (d *directory) makeFolderLocked(folder string) error {
	if folder == "." {
		return nil
	}
	if _, err := os.Stat(d.path(folder)); err == nil && d.made[folder] {
		return nil
	}
	parent := path.Dir(folder)
	if err := d.makeFolderLocked(parent); err != nil {
		return err
	}
	if err := os.Mkdir(d.path(folder), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := d.sync(parent); err != nil {
		return err
	}
	d.made[folder] = true
	return nil
}

// sync makes the entries of a key's folder durable.
func (d *directory) sync(folder string) error {
	if err := syncFolder(d.path(folder)); err != nil {
		return fmt.Errorf("checkpoints: sync folder: %w", err)
	}
	return nil
}

func (d *directory) open(ctx context.Context, key string) (*os.File, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	info, err := os.Stat(d.path(key))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s in %s", ErrNotFound, key, d.root)
	}
	if err != nil {
		return nil, fmt.Errorf("checkpoints: open %s: %w", key, err)
	}
	f, err := os.Open(d.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s in %s", ErrNotFound, key, d.root)
	}
	if err != nil {
		return nil, fmt.Errorf("checkpoints: open %s: %w", key, err)
	}
	return f, nil
}

func (d *directory) now(context.Context) (time.Time, error) {
	f, err := d.stage()
	if err != nil {
		return time.Time{}, err
	}
	defer discard(f)
	info, err := f.Stat()
	if err != nil {
		return time.Time{}, fmt.Errorf("checkpoints: the time of %s: %w", d, err)
	}
	return info.ModTime(), nil
}

func (d *directory) written(_ context.Context, key string) (time.Time, error) {
	info, err := os.Stat(d.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, fmt.Errorf("%w: %s", ErrNotFound, key)
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("checkpoints: %s: %w", key, err)
	}
	return info.ModTime(), nil
}

// String is part of Store.
func (d *directory) String() string { return "folder " + d.root }

func (d *directory) path(key string) string { return filepath.Join(d.root, filepath.FromSlash(key)) }
