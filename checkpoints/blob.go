package checkpoints

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// maxReadFile is the greatest size in bytes that ReadFile and ReadBlob read into memory.
const maxReadFile = 256 << 20

// Open opens a file of a checkpoint. The reader verifies size and sha256: at the end it returns ErrCorrupt in place of
// io.EOF if they differ from the manifest's. Open returns ErrCorrupt if the blob is missing.
func (r *Repository) Open(ctx context.Context, run string, f File) (io.ReadCloser, error) {
	if err := checkRun(run); err != nil {
		return nil, err
	}
	if !validSHA256.MatchString(f.SHA256) {
		return nil, fmt.Errorf("%w: file %s: sha256 %q is not 64 hexadecimal digits", ErrManifest, f.Name, f.SHA256)
	}
	body, err := r.store.Get(ctx, blobKey(run, f.SHA256))
	if errors.Is(err, ErrNotFound) {
		return nil, missing(run, f)
	}
	if err != nil {
		return nil, err
	}
	return r.verifier(body, run, f), nil
}

// ReadFile reads a small file of a checkpoint into memory and verifies it, as Open does.
func (r *Repository) ReadFile(ctx context.Context, run string, f File) ([]byte, error) {
	if f.Bytes > maxReadFile {
		return nil, fmt.Errorf("checkpoints: file %s has %d bytes, too many to read at once", f.Name, f.Bytes)
	}
	body, err := r.Open(ctx, run, f)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(body)
}

// ReadBlob reads and verifies a blob that PutBlob stored. The error wraps ErrNotFound if the run has no such blob.
func (r *Repository) ReadBlob(ctx context.Context, run, sum string) ([]byte, error) {
	if err := checkRun(run); err != nil {
		return nil, err
	}
	key := detailKey(run, sum)
	body, err := r.store.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, maxReadFile))
	if err != nil {
		return nil, fmt.Errorf("checkpoints: read %s: %w", key, err)
	}
	found := sha256.Sum256(data)
	if got := hex.EncodeToString(found[:]); got != sum {
		return nil, fmt.Errorf("%w: %s has %d bytes with sha256 %s: restore it from a copy of the store", ErrCorrupt, key,
			len(data), got)
	}
	return data, nil
}

// verifier returns a reader that hashes what is read and compares the sum at the end.
type verifier struct {
	io.ReadCloser
	repository *Repository
	run        string
	file       File
	hash       hash.Hash
	n          int64
}

func (r *Repository) verifier(body io.ReadCloser, run string, f File) *verifier {
	return &verifier{ReadCloser: body, repository: r, run: run, file: f, hash: sha256.New()}
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.ReadCloser.Read(p)
	v.hash.Write(p[:n])
	v.n += int64(n)
	v.repository.read.Add(uint64(n))
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) || err == nil && v.n > v.file.Bytes {
		sum := hex.EncodeToString(v.hash.Sum(nil))
		if v.n != v.file.Bytes || sum != v.file.SHA256 {
			v.repository.setDamaged(blobKey(v.run, v.file.SHA256), true)
			return n, corrupt(v.run, v.file, v.n, sum)
		}
	}
	return n, err
}

// setDamaged notes whether a blob's bytes differ from its name. Commit writes a damaged blob again although the store has it.
func (r *Repository) setDamaged(key string, damaged bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if damaged {
		r.damaged[key] = true
	} else {
		delete(r.damaged, key)
	}
}

func (r *Repository) isDamaged(key string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.damaged[key]
}

const remedy = "replace it with a copy of the file that has the expected sha256; or end all processes of the run, move this" +
	" blob, the manifests that name it and all later manifests out of the store, and start again: the run resumes from the" +
	" checkpoint before them and computes the same weights"

func corrupt(run string, f File, n int64, sum string) error {
	return fmt.Errorf("%w: file %s (%s): expected %d bytes with sha256 %s, found %d with %s: %s", ErrCorrupt, f.Name,
		blobKey(run, f.SHA256), f.Bytes, f.SHA256, n, sum, remedy)
}

func missing(run string, f File) error {
	return fmt.Errorf("%w: file %s (%s): expected %d bytes with sha256 %s, found no file, or one of another size: %s",
		ErrCorrupt, f.Name, blobKey(run, f.SHA256), f.Bytes, f.SHA256, remedy)
}

// folder is implemented by a store that keeps its objects as local files.
type folder interface{ local(key string) string }

// locals remembers which local files this process has verified.
type locals struct {
	mu    sync.Mutex
	files map[string]*localFile
}

type localFile struct {
	turn     chan struct{} // holds one token: whoever has it verifies or downloads
	verified bool
}

// Local returns the path of a local file with the bytes of a checkpoint's file. The caller may read or map the file but must
// not write to it. A directory store returns the blob itself. Other stores download it into the cache folder, once however
// many callers ask. A process verifies each file once. The error wraps ErrCorrupt as for Open.
func (r *Repository) Local(ctx context.Context, run string, f File) (string, error) {
	if err := validateFiles([]File{f}); err != nil {
		return "", err
	}
	if err := checkRun(run); err != nil {
		return "", err
	}
	path := filepath.Join(r.cache, f.SHA256)
	own, inStore := r.store.(folder)
	if inStore {
		path = own.local(blobKey(run, f.SHA256))
	}
	r.local.mu.Lock()
	l := r.local.files[path]
	if l == nil {
		l = &localFile{turn: make(chan struct{}, 1)}
		r.local.files[path] = l
	}
	r.local.mu.Unlock()
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if !inStore {
		used(path)
	}
	if info, err := os.Stat(path); l.verified && err == nil && info.Size() == f.Bytes {
		return path, nil
	}
	err := r.verify(ctx, run, f, path)
	if err != nil && !inStore && ctx.Err() == nil { // not there, or damaged: the store has it
		if err = r.download(ctx, run, f, path); err == nil {
			r.trim(ctx)
		}
	}
	if err != nil {
		return "", err
	}
	l.verified = true
	return path, nil
}

// verify reads a local file and checks its size and sha256.
func (r *Repository) verify(ctx context.Context, run string, f File, path string) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return missing(run, f)
	}
	if err != nil {
		return fmt.Errorf("checkpoints: file %s: %w", f.Name, err)
	}
	body := r.verifier(file, run, f)
	defer body.Close()
	if _, err := io.Copy(io.Discard, contextReader{ctx, body}); err != nil {
		return fmt.Errorf("checkpoints: file %s: %w", f.Name, err)
	}
	return nil
}

// download writes a verified copy to path, whole or not at all.
func (r *Repository) download(ctx context.Context, run string, f File, path string) error {
	tmp, err := r.temp()
	if err != nil {
		return err
	}
	defer discard(tmp)
	if err := r.copyTo(ctx, run, f, tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return writeError(f.Name, r.cache, err)
	}
	r.log.Debug().Str("run", run).Str("file", f.Name).Int64("bytes", f.Bytes).Msg("checkpoint file downloaded")
	return nil
}

// copyTo verifies a file of a checkpoint and copies it into an open file.
func (r *Repository) copyTo(ctx context.Context, run string, f File, w *os.File) error {
	body, err := r.Open(ctx, run, f)
	if err != nil {
		return err
	}
	defer body.Close()
	if _, err := io.Copy(w, contextReader{ctx, body}); diskFull(err) {
		return writeError(f.Name, filepath.Dir(w.Name()), err)
	} else if err != nil {
		return fmt.Errorf("checkpoints: file %s: %w", f.Name, err)
	}
	return nil
}

// Folder returns a folder below the cache folder that has the checkpoint's files under their names, in the layout of a
// Hugging Face model. The files are links to those of Local and must not be written to. The error wraps ErrExpired if
// retention has removed the checkpoint's weights.
func (r *Repository) Folder(ctx context.Context, m Manifest) (string, error) {
	if r.cache == "" {
		return "", errors.New("checkpoints: no cache folder was given")
	}
	if !validSHA256.MatchString(m.Digest) {
		return "", fmt.Errorf("%w: a manifest without digest", ErrManifest)
	}
	cache, err := filepath.Abs(r.cache)
	if err != nil {
		return "", fmt.Errorf("checkpoints: cache folder: %w", err)
	}
	dir := filepath.Join(cache, "folders", m.Digest)
	err = r.place(m, dir, func(f File, path string) error {
		local, err := r.Local(ctx, m.Run, f)
		if err != nil {
			return err
		}
		if local, err = filepath.Abs(local); err != nil {
			return err
		}
		return os.Symlink(local, path)
	})
	if err != nil {
		return "", r.explained(ctx, m, err)
	}
	return dir, nil
}

// Materialise writes verified copies of the checkpoint's files under their names into a folder, in the layout of a Hugging
// Face model. It creates the folder if necessary, and replaces files of the same names. Each file is written whole or not at
// all. The caller may change the files. The error wraps ErrExpired as for Folder.
func (r *Repository) Materialise(ctx context.Context, m Manifest, dir string) error {
	err := r.place(m, dir, func(f File, path string) error {
		w, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return writeError(f.Name, dir, err)
		}
		defer w.Close()
		return r.copyTo(ctx, m.Run, f, w)
	})
	return r.explained(ctx, m, err)
}

// place makes each file of the manifest under a temporary name and renames it.
func (r *Repository) place(m Manifest, dir string, write func(f File, path string) error) error {
	if err := m.validate(); err != nil { // names decide where files go
		return err
	}
	for _, f := range m.Files {
		path := filepath.Join(dir, filepath.FromSlash(f.Name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return writeError(f.Name, dir, err)
		}
		tmp, err := os.MkdirTemp(filepath.Dir(path), ".partial-")
		if err != nil {
			return writeError(f.Name, dir, err)
		}
		partial := filepath.Join(tmp, "file")
		err = write(f, partial)
		if err == nil {
			if err = os.Rename(partial, path); err != nil {
				err = writeError(f.Name, dir, err)
			}
		}
		if err := errors.Join(err, os.RemoveAll(tmp)); err != nil {
			return err
		}
	}
	return nil
}
