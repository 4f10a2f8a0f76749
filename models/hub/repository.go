package hub

import (
	"context"
	"crypto/sha1" //nolint:gosec // git names its objects by it
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Progress is the progress of a download, in bytes.
type Progress struct {
	File       string
	Done, Size int64 // of the file
	AllDone    int64 // of all files that Resolve wants
	AllSize    int64
}

// Model locates a model.
type Model struct {
	// Dir is the model's folder.
	Dir string
	// ID is org/name, and Revision is the commit of the snapshot in Dir. Both are empty for a local folder.
	ID, Revision string
}

// The limits of a download: how long it may receive nothing, how often it is retried without progress, and the first pause
// before a retry, which doubles each time.
const (
	stalled = time.Minute
	tries   = 5
	pause   = 100 * time.Millisecond
)

// repository is one model on the Hub, and its folder in the cache.
type repository struct {
	id       string
	client   client
	cache    cache
	progress func(Progress)

	done, size int64 // bytes of all wanted files
}

// wantedNames are the files that this project reads, as patterns of package path.
var wantedNames = []string{
	"config.json", "generation_config.json", "special_tokens_map.json", "tokenizer*", "chat_template*",
	"adapter_config.json", "adapter_model.safetensors", "*.safetensors", "*.safetensors.index.json",
}

// mainWeights are the weights that transformers loads. Other weights beside them are copies in another form.
var mainWeights = regexp.MustCompile(`^model(-\d+-of-\d+)?\.safetensors$`)

// wanted selects the files of a repository to fetch, sorted by name with the weights last.
func wanted(names []string) []string {
	var small, weights []string
	for _, name := range names {
		switch {
		case strings.ContainsAny(name, `/\`):
		case strings.HasSuffix(name, ".safetensors"):
			weights = append(weights, name)
		case slices.ContainsFunc(wantedNames, func(pattern string) bool {
			ok, err := path.Match(pattern, name)
			return ok && err == nil
		}):
			small = append(small, name)
		}
	}
	if slices.ContainsFunc(weights, mainWeights.MatchString) {
		weights = slices.DeleteFunc(weights, func(name string) bool {
			return !mainWeights.MatchString(name) && !strings.HasPrefix(name, "adapter_")
		})
	}
	if slices.Contains(weights, "model.safetensors") {
		weights = slices.DeleteFunc(weights, func(name string) bool {
			return name != "model.safetensors" && mainWeights.MatchString(name)
		})
	}
	if len(weights) == 0 {
		return nil
	}
	slices.Sort(small)
	slices.Sort(weights)
	return append(small, weights...)
}

// cached finds a model in the cache without the network.
func (r *repository) cached(rev string) (Model, error) {
	sha, err := r.cache.commitOf(rev)
	if err != nil {
		return Model{}, fmt.Errorf("the cache has no revision %s: %w", rev, err)
	}
	m := Model{Dir: r.cache.snapshot(sha), ID: r.id, Revision: sha}
	return m, complete(m.Dir)
}

// fetch downloads the missing files of a revision.
func (r *repository) fetch(ctx context.Context, rev string) (Model, error) {
	var sha string
	var files []remote
	err := again(ctx, func() (moved bool, err error) {
		sha, files, err = r.client.commitFiles(ctx, r.id, rev, wanted)
		return false, err
	})
	if err != nil {
		if _, inCache := r.cached(rev); inCache == nil && isTransient(err) {
			err = fmt.Errorf("%w (the cache has it: HF_HUB_OFFLINE=1 uses that)", err)
		}
		return Model{}, err
	}
	if len(files) == 0 {
		return Model{}, fmt.Errorf("%w: commit %s has no *.safetensors file; "+
			"convert it with transformers: save_pretrained(FOLDER, safe_serialization=True)", ErrNoWeights, sha)
	}
	for _, f := range files {
		r.size += f.size
	}
	for _, f := range files {
		if err := r.fetchFile(ctx, sha, f); err != nil {
			return Model{}, fmt.Errorf("%s: %w", f.name, err)
		}
		r.done += f.size
		r.tell(f, f.size, r.done)
	}
	for _, f := range files {
		if err := r.cache.link(sha, f); err != nil {
			return Model{}, err
		}
	}
	if err := r.cache.keepRef(rev, sha); err != nil {
		return Model{}, err
	}
	return Model{Dir: r.cache.snapshot(sha), ID: r.id, Revision: sha}, nil
}

func (r *repository) tell(f remote, done, allDone int64) {
	if r.progress != nil {
		r.progress(Progress{File: f.name, Done: done, Size: f.size, AllDone: allDone, AllSize: r.size})
	}
}

// again repeats try after transient errors, until it has failed too often without progress.
func again(ctx context.Context, try func() (moved bool, err error)) error {
	for failures := 0; ; {
		moved, err := try()
		if err == nil || !isTransient(err) {
			return err
		}
		if failures++; moved {
			failures = 1
		}
		if failures == tries {
			return err
		}
		if err := sleep(ctx, pause<<failures); err != nil {
			return err
		}
	}
}

// fetchFile downloads one file to its blob, unless the cache has it.
func (r *repository) fetchFile(ctx context.Context, sha string, f remote) (err error) {
	if r.cache.has(f) {
		return nil
	}
	unlock, err := r.cache.lock(ctx, f.digest)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if r.cache.has(f) { // another process was faster
		return nil
	}
	blob := r.cache.blob(f.digest)
	if err := os.MkdirAll(filepath.Dir(blob), dirMode); err != nil {
		return fmt.Errorf("hub: %w", err)
	}
	partial := blob + ".incomplete"
	if err := again(ctx, func() (bool, error) { return r.continueFile(ctx, sha, f, partial) }); err != nil {
		if errors.Is(err, syscall.ENOSPC) {
			err = fmt.Errorf("%w: the disk of %s is full; free %d bytes and try again: what was fetched is kept",
				err, r.cache.dir, r.size-r.done)
		}
		return err
	}
	if err := verify(ctx, partial, f); err != nil {
		if errors.Is(err, ErrDigest) {
			err = errors.Join(err, os.Remove(partial))
		}
		return err
	}
	if err := os.Rename(partial, blob); err != nil {
		return fmt.Errorf("hub: %w", err)
	}
	return nil
}

// continueFile requests the missing part of the partial file and appends it. moved reports whether it received anything.
func (r *repository) continueFile(ctx context.Context, sha string, f remote, partial string) (moved bool, err error) {
	file, err := os.OpenFile(partial, os.O_CREATE|os.O_WRONLY|os.O_APPEND, fileMode)
	if err != nil {
		return false, fmt.Errorf("hub: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return false, fmt.Errorf("hub: %w", err)
	}
	have := info.Size()
	restart := func() error {
		have = 0
		if err := file.Truncate(0); err != nil {
			return fmt.Errorf("hub: %w", err)
		}
		return nil
	}
	if have == f.size && have > 0 {
		return false, nil
	}
	if have > f.size {
		if err := restart(); err != nil {
			return false, err
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	resp, err := r.client.ask(ctx, http.MethodGet, r.client.fileURL(r.id, sha, f.name), have)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	whole := have > 0 && resp.StatusCode != http.StatusPartialContent // Range is not known there
	other := have > 0 && !whole && !strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", have))
	if whole || other {
		if err := restart(); err != nil {
			return false, err
		}
	}
	if other {
		return false, transient{fmt.Errorf("%w: the server sent another range: %q", ErrProtocol, resp.Header.Get("Content-Range"))}
	}
	watchdog := time.AfterFunc(stalled, func() { cancel(transient{fmt.Errorf("hub: received nothing for %s", stalled)}) })
	defer watchdog.Stop()
	body := &watched{ctx: ctx, reader: io.LimitReader(resp.Body, f.size-have+1), moved: func() { watchdog.Reset(stalled) }}
	out := &counted{writer: file, done: have, told: have, tell: func(done int64) { r.tell(f, done, r.done+done) }}
	n, err := io.Copy(out, body)
	switch {
	case err != nil:
		return n > 0, err
	case have+n > f.size:
		return false, errors.Join(fmt.Errorf("%w: more than the %d bytes that were announced", ErrDigest, f.size), restart())
	case have+n < f.size:
		return n > 0, transient{fmt.Errorf("hub: the connection ended after %d of %d bytes", have+n, f.size)}
	}
	if err := file.Sync(); err != nil {
		return true, fmt.Errorf("hub: %w", err)
	}
	return true, nil
}

// watched is a reader that ends with its context. Its other errors are transient.
type watched struct {
	ctx    context.Context //nolint:containedctx // it lives as long as the read
	reader io.Reader
	moved  func()
}

func (w *watched) Read(p []byte) (int, error) {
	if w.ctx.Err() != nil {
		return 0, context.Cause(w.ctx)
	}
	n, err := w.reader.Read(p)
	if n > 0 {
		w.moved()
	}
	if err != nil && err != io.EOF {
		if w.ctx.Err() != nil {
			return n, context.Cause(w.ctx)
		}
		err = transient{fmt.Errorf("hub: %w", err)}
	}
	return n, err
}

// counted reports the progress of a file every megabyte.
type counted struct {
	writer     io.Writer
	done, told int64
	tell       func(done int64)
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.writer.Write(p)
	c.done += int64(n)
	if c.done-c.told >= 1<<20 {
		c.told = c.done
		c.tell(c.done)
	}
	return n, err
}

// verify compares a file with its digest.
func verify(ctx context.Context, path string, f remote) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("hub: %w", err)
	}
	defer file.Close()
	var sum hash.Hash
	if len(f.digest) == 2*sha256.Size {
		sum = sha256.New()
	} else {
		sum = sha1.New() //nolint:gosec // git names its objects by it
		fmt.Fprintf(sum, "blob %d\x00", f.size)
	}
	if _, err := io.Copy(sum, &watched{ctx: ctx, reader: file, moved: func() {}}); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != f.digest {
		return fmt.Errorf("%w: the file has %s where the Hub announced %s; it was removed, try again",
			ErrDigest, got, f.digest)
	}
	return nil
}
