package checkpoints

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Draft is a checkpoint to be committed: a Manifest whose files are not written yet.
type Draft struct {
	Kind       Kind
	Iteration  uint32
	Step       uint64
	Parent     string
	SpecDigest string
	Cursor     *Cursor
	Metrics    []Metric
	// Machine is stored beside the manifest (see Repository.Machine); nil stores nothing.
	Machine *Machine
	// Files in any order.
	Files []Source
}

// Source is a file of a Draft: either Write writes its bytes, or Blob names a blob that the run already has. Write must
// write the same bytes each time, or the commit cannot be repeated.
type Source struct {
	Name  string
	Write func(io.Writer) error
	Blob  *File
}

// Carry returns a Source that reuses a file of an earlier checkpoint of the run under the same name, without writing it again.
func Carry(f File) Source { return Source{Name: f.Name, Blob: &f} }

// FromBytes returns a Source with these bytes.
func FromBytes(name string, data []byte) Source {
	return Source{Name: name, Write: func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	}}
}

// Claim notes the run's newest manifest as the one that this Repository builds upon. A trainer calls it after it has acquired
// the lease and before it reads the state from which it resumes. If another process adds a manifest after that, Commit
// fails. The first Commit claims if Claim was not called.
func (r *Repository) Claim(ctx context.Context, run string) error {
	r.writing.Lock()
	defer r.writing.Unlock()
	return r.claim(ctx, run)
}

// Guard makes each Commit of a run call confirm after it has stored a checkpoint's files and before it creates the manifest. An
// error of confirm fails the commit. A trainer confirms its lease in this way. A nil confirm ends it.
func (r *Repository) Guard(run string, confirm func(ctx context.Context) error) {
	r.writing.Lock()
	defer r.writing.Unlock()
	r.guards[run] = confirm
}

func (r *Repository) claim(ctx context.Context, run string) error {
	keys, err := r.keys(ctx, run)
	if err != nil {
		return err
	}
	r.last[run] = 0
	if len(keys) > 0 {
		r.last[run] = numberOf(keys[len(keys)-1])
	}
	return nil
}

// Commit writes the draft's blobs, checks that the store has them all, and creates the run's next manifest. It can be
// repeated after any error. The error wraps ErrConflict if another process has created that manifest with other contents, and
// ErrManifest if the draft is invalid, in which case nothing is written.
func (r *Repository) Commit(ctx context.Context, run string, d Draft) (Manifest, error) {
	r.writing.Lock()
	defer r.writing.Unlock()
	m, err := d.manifest(run)
	if err != nil {
		return Manifest{}, err
	}
	if _, claimed := r.last[run]; !claimed {
		if err := r.claim(ctx, run); err != nil {
			return Manifest{}, err
		}
	}
	for _, source := range d.Files {
		file, err := r.writeSource(ctx, run, source)
		if err != nil {
			return Manifest{}, fmt.Errorf("checkpoints: commit %s of run %s: file %s: %w", d.Kind, run, source.Name, err)
		}
		m.Files = append(m.Files, file)
	}
	slices.SortFunc(m.Files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	for _, f := range m.Files {
		if ok, err := r.has(ctx, blobKey(run, f.SHA256), f.Bytes); err != nil {
			return Manifest{}, err
		} else if !ok {
			return Manifest{}, missing(run, f)
		}
	}
	data, err := m.encode()
	if err != nil {
		return Manifest{}, err
	}
	number := r.last[run] + 1
	key := manifestKey(run, number)
	if err := r.note(ctx, run, number, d.Machine); err != nil {
		return Manifest{}, err
	}
	if confirm := r.guards[run]; confirm != nil {
		if err := confirm(ctx); err != nil {
			return Manifest{}, fmt.Errorf("checkpoints: commit %s of run %s: %w", d.Kind, run, err)
		}
	}
	if err := r.store.Create(ctx, key, data); errors.Is(err, ErrExists) {
		return Manifest{}, fmt.Errorf("%w: manifest %d of run %s was created by another process: end this one", ErrConflict,
			number, run)
	} else if err != nil {
		return Manifest{}, err
	}
	r.last[run] = number
	if m, err = ParseManifest(key, data); err != nil {
		return Manifest{}, err
	}
	r.log.Info().Str("run", run).Str("checkpoint", m.Digest).Str("kind", string(m.Kind)).Uint64("number", number).
		Uint32("iteration", m.Iteration).Uint64("step", m.Step).Msg("checkpoint committed")
	return m, nil
}

// PutBlob stores data that no manifest names (details of an evaluation) and returns its sha256, which an event then carries.
func (r *Repository) PutBlob(ctx context.Context, run string, data []byte) (string, error) {
	if err := checkRun(run); err != nil {
		return "", err
	}
	digest := sha256.Sum256(data)
	sum := hex.EncodeToString(digest[:])
	return sum, r.store.Put(ctx, detailKey(run, sum), bytes.NewReader(data), int64(len(data)))
}

// manifest checks whatever of the draft can be checked before its files are written.
func (d Draft) manifest(run string) (Manifest, error) {
	m := Manifest{
		Schema:     Schema,
		Run:        run,
		Kind:       d.Kind,
		Iteration:  d.Iteration,
		Step:       d.Step,
		Parent:     d.Parent,
		SpecDigest: d.SpecDigest,
		Cursor:     d.Cursor,
		Metrics:    d.Metrics,
	}
	for _, s := range d.Files {
		f := File{Name: s.Name, SHA256: strings.Repeat("0", 64)}
		if s.Blob != nil {
			f.Bytes, f.SHA256 = s.Blob.Bytes, s.Blob.SHA256
		}
		if (s.Write == nil) == (s.Blob == nil) {
			return Manifest{}, fmt.Errorf("%w: file %s: one of Write and Blob must be given", ErrManifest, s.Name)
		}
		m.Files = append(m.Files, f)
	}
	slices.SortFunc(m.Files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	if _, err := m.encode(); err != nil {
		return Manifest{}, err
	}
	m.Files = nil
	return m, nil
}

// stager is a store that can adopt a file of its own file system.
type stager interface {
	stage() (*os.File, error)
	adopt(ctx context.Context, key string, f *os.File) error
}

// writeSource makes sure that the store has the source's blob. It hashes the bytes while writing them to a temporary file,
// which goes to the store unless the store has the blob and this process has not found it damaged.
func (r *Repository) writeSource(ctx context.Context, run string, s Source) (File, error) {
	if s.Blob != nil {
		return File{Name: s.Name, Bytes: s.Blob.Bytes, SHA256: s.Blob.SHA256}, nil
	}
	f, err := r.stage()
	if err != nil {
		return File{}, err
	}
	defer discard(f)
	hash := sha256.New()
	w := bufio.NewWriterSize(contextWriter{ctx, io.MultiWriter(f, hash)}, 1<<18)
	if err = s.Write(w); err == nil {
		err = w.Flush()
	}
	if diskFull(err) {
		return File{}, writeError("a temporary file", filepath.Dir(f.Name()), err)
	}
	if err != nil {
		return File{}, err
	}
	size, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return File{}, err
	}
	file := File{Name: s.Name, Bytes: size, SHA256: hex.EncodeToString(hash.Sum(nil))}
	key := blobKey(run, file.SHA256)
	if ok, err := r.has(ctx, key, size); err != nil || ok && !r.isDamaged(key) {
		return file, err
	}
	if own, ok := r.store.(stager); ok {
		err = own.adopt(ctx, key, f)
	} else {
		err = r.store.Put(ctx, key, io.NewSectionReader(f, 0, size), size)
	}
	if err == nil {
		r.setDamaged(key, false)
	}
	return file, err
}

// has reports whether the store has an object of this size under the key.
func (r *Repository) has(ctx context.Context, key string, size int64) (bool, error) {
	found, err := r.store.Stat(ctx, key)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil && found == size, err
}

func (r *Repository) stage() (*os.File, error) {
	if own, ok := r.store.(stager); ok {
		return own.stage()
	}
	return r.temp()
}

// temp creates a temporary file in the cache folder.
func (r *Repository) temp() (*os.File, error) {
	if r.cache == "" {
		return nil, errors.New("checkpoints: this store needs a cache folder, and none was given")
	}
	r.sweep.Do(r.scratch.sweep)
	f, err := r.scratch.create()
	if err != nil {
		return nil, writeError("a temporary file", r.cache, err)
	}
	return f, nil
}
