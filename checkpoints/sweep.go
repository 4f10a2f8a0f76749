package checkpoints

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/minio/minio-go/v7"
)

// Swept counts what a sweep removed, or would remove.
type Swept struct {
	// Blobs and Bytes count the blobs that no manifest names.
	Blobs int   `json:"blobs"`
	Bytes int64 `json:"bytes"`
	// Young counts the blobs that were kept because they are younger than the grace period.
	Young int `json:"young"`
}

// Sweep removes the blobs that no manifest of the run names. A writer leaves them when it dies before it creates its manifest.
// Readers follow manifests alone, so nobody reads them. Sweep keeps blobs younger than grace, because a writer may be about
// to name them. With dry it only counts. The caller must hold the run's lease, as for Prune.
func (r *Repository) Sweep(ctx context.Context, run string, grace time.Duration, dry bool) (Swept, error) {
	r.writing.Lock()
	defer r.writing.Unlock()
	manifests, err := r.List(ctx, run)
	if err != nil {
		return Swept{}, err
	}
	live := map[string]bool{}
	for _, m := range manifests {
		for _, f := range m.Files {
			live[blobKey(run, f.SHA256)] = true
		}
	}
	keys, err := r.store.List(ctx, blobKey(run, ""))
	if err != nil {
		return Swept{}, err
	}
	var out Swept
	for _, key := range keys {
		if live[key] {
			continue
		}
		written, err := writtenAt(ctx, r.store, key)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return out, err
		}
		if time.Since(written) < grace {
			out.Young++
			continue
		}
		size, err := r.store.Stat(ctx, key)
		if err == nil && !dry {
			err = r.store.Delete(ctx, key)
		}
		if err != nil {
			return out, fmt.Errorf("checkpoints: sweep run %s: %w", run, err)
		}
		out.Blobs++
		out.Bytes += size
	}
	return out, nil
}

// Size returns the number of a run's checkpoints, the number of its objects, and the size of the objects in bytes.
func (r *Repository) Size(ctx context.Context, run string) (manifests, objects int, bytes int64, err error) {
	keys, err := r.objects(ctx, run)
	if err != nil {
		return 0, 0, 0, err
	}
	for _, key := range keys {
		size, err := r.store.Stat(ctx, key)
		if errors.Is(err, ErrNotFound) { // the run's writer has removed it since
			continue
		}
		if err != nil {
			return 0, 0, 0, err
		}
		if _, _, ok := parseManifestKey(key); ok {
			manifests++
		}
		objects++
		bytes += size
	}
	return manifests, objects, bytes, nil
}

// DeleteRun removes all checkpoints of a run. It removes the manifests first, the newest before the older ones, so that no
// manifest ever names a missing file. It can be repeated. The caller must hold the run's lease and know that nobody reads
// the run.
func (r *Repository) DeleteRun(ctx context.Context, run string) error {
	r.writing.Lock()
	defer r.writing.Unlock()
	keys, err := r.objects(ctx, run)
	if err != nil {
		return err
	}
	named := slices.DeleteFunc(slices.Clone(keys), func(key string) bool {
		_, _, ok := parseManifestKey(key)
		return !ok
	})
	slices.Reverse(named)
	for _, key := range append(named, keys...) {
		if err := r.store.Delete(ctx, key); err != nil {
			return fmt.Errorf("checkpoints: delete run %s: %w", run, err)
		}
		r.mu.Lock()
		delete(r.manifests, key)
		delete(r.pruned, key)
		r.mu.Unlock()
	}
	delete(r.last, run)
	return nil
}

// objects returns the keys of all objects that the repository keeps for a run.
func (r *Repository) objects(ctx context.Context, run string) ([]string, error) {
	if err := checkRun(run); err != nil {
		return nil, err
	}
	var keys []string
	for _, prefix := range []string{
		manifestPrefix(run), blobKey(run, ""), detailKey(run, ""), "runs/" + run + "/machines/",
		expiredKey(run, ""),
	} {
		found, err := r.store.List(ctx, prefix)
		if err != nil {
			return nil, err
		}
		keys = append(keys, found...)
	}
	return keys, nil
}

// writtenAt returns when an object was written, by the store's clock.
func writtenAt(ctx context.Context, s Store, key string) (time.Time, error) {
	switch s := s.(type) {
	case *directory:
		info, err := os.Stat(s.path(key))
		if errors.Is(err, fs.ErrNotExist) {
			return time.Time{}, fmt.Errorf("%w: %s", ErrNotFound, key)
		}
		if err != nil {
			return time.Time{}, fmt.Errorf("checkpoints: %s: %w", key, err)
		}
		return info.ModTime(), nil
	case *s3:
		info, err := s.client.StatObject(ctx, s.bucket, key, minio.StatObjectOptions{})
		if err != nil {
			return time.Time{}, s.explain(ctx, "stat", key, err)
		}
		return info.LastModified, nil
	}
	return time.Now(), nil // the store has no clock, so none of its objects is old
}
