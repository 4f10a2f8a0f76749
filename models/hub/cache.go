package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ldalign/ldalign/filelock"
)

const (
	dirMode  = 0o750
	fileMode = 0o600
	polling  = 200 * time.Millisecond // between checks whether another process still fetches a file
)

// cache is the folder of one repository (see the package comment).
type cache struct{ dir string }

func (c cache) blob(digest string) string  { return filepath.Join(c.dir, "blobs", digest) }
func (c cache) snapshot(sha string) string { return filepath.Join(c.dir, "snapshots", sha) }
func (c cache) ref(rev string) string      { return filepath.Join(c.dir, "refs", filepath.FromSlash(rev)) }

// commitOf returns the commit that a revision resolved to when it was last requested.
func (c cache) commitOf(rev string) (string, error) {
	if commit.MatchString(rev) {
		return rev, nil
	}
	text, err := os.ReadFile(c.ref(rev))
	sha := strings.TrimSpace(string(text))
	if err == nil && !commit.MatchString(sha) {
		err = fmt.Errorf("%s contains %q, which is not a commit", c.ref(rev), sha)
	}
	return sha, err
}

// keepRef records the commit of a branch or tag.
func (c cache) keepRef(rev, sha string) error {
	if rev == sha {
		return nil
	}
	path := c.ref(rev)
	if old, err := c.commitOf(rev); err == nil && old == sha {
		return nil
	}
	return replace(path, func(temporary string) error { return os.WriteFile(temporary, []byte(sha), fileMode) })
}

// link links a file of a snapshot to its blob.
func (c cache) link(sha string, f remote) error {
	path := filepath.Join(c.snapshot(sha), f.name)
	target := filepath.Join("..", "..", "blobs", f.digest)
	if old, err := os.Readlink(path); err == nil && old == target {
		return nil
	}
	return replace(path, func(temporary string) error { return os.Symlink(target, temporary) })
}

// replace creates a file under a temporary name and renames it to path.
func replace(path string, write func(temporary string) error) error {
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return fmt.Errorf("hub: %w", err)
	}
	temporary := fmt.Sprintf("%s.%d.tmp", path, os.Getpid())
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("hub: %w", err)
	}
	if err := write(temporary); err != nil {
		return fmt.Errorf("hub: %w", errors.Join(err, os.Remove(temporary)))
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("hub: %w", err)
	}
	return nil
}

// has reports whether a complete file is in the cache.
func (c cache) has(f remote) bool {
	info, err := os.Stat(c.blob(f.digest))
	return err == nil && info.Size() == f.size
}

// lock waits until no other process fetches the blob. huggingface_hub uses the same lock.
func (c cache) lock(ctx context.Context, digest string) (unlock func() error, err error) {
	path := filepath.Join(filepath.Dir(c.dir), ".locks", filepath.Base(c.dir), digest+".lock")
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return nil, fmt.Errorf("hub: %w", err)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, fileMode)
	if err != nil {
		return nil, fmt.Errorf("hub: %w", err)
	}
	for {
		err := filelock.Try(file)
		if err == nil {
			return file.Close, nil
		}
		if !errors.Is(err, filelock.ErrHeld) {
			return nil, errors.Join(fmt.Errorf("hub: lock %s: %w", path, err), file.Close())
		}
		if err := sleep(ctx, polling); err != nil {
			return nil, errors.Join(err, file.Close())
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// complete returns an error if a snapshot lacks a file that loading needs. (Python may have fetched a part of it.)
func complete(dir string) error {
	exists := func(names ...string) bool {
		return slices.ContainsFunc(names, func(name string) bool {
			_, err := os.Stat(filepath.Join(dir, name))
			return err == nil
		})
	}
	if !exists("config.json", "adapter_config.json") {
		return fmt.Errorf("%s has no config.json", dir)
	}
	if exists("model.safetensors", "adapter_model.safetensors") {
		return nil
	}
	text, err := os.ReadFile(filepath.Join(dir, "model.safetensors.index.json"))
	if errors.Is(err, fs.ErrNotExist) {
		matches, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
		if err == nil && len(matches) == 0 {
			err = fmt.Errorf("%s has no *.safetensors", dir)
		}
		return err
	}
	if err != nil {
		return err
	}
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(text, &index); err != nil {
		return fmt.Errorf("%s: model.safetensors.index.json: %w", dir, err)
	}
	missing := ""
	for _, shard := range index.WeightMap {
		if !exists(shard) && (missing == "" || shard < missing) {
			missing = shard
		}
	}
	if missing != "" {
		return fmt.Errorf("%s has no %s", dir, missing)
	}
	return nil
}
