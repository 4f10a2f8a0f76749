package checkpoints

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Swept counts what a sweep removed, or would remove.
type Swept struct {
	// Blobs and Bytes count the blobs that no manifest names.
	Blobs int   `json:"blobs"`
	Bytes int64 `json:"bytes"`
	// Uploads counts the uploads in parts that were begun and never completed.
	Uploads int `json:"uploads,omitempty"`
	// Young counts the blobs and uploads that were kept because they are younger than the grace period.
	Young int `json:"young"`
}

// dated is a store that knows when its objects were written. Both times are of the store's clock, so an age does not depend on
// the clock of this machine.
type dated interface {
	// now returns the time that the store would give to an object written now.
	now(ctx context.Context) (time.Time, error)
	// written returns when an object was written; ErrNotFound if there is none.
	written(ctx context.Context, key string) (time.Time, error)
}

// uploader is a store to which a writer that dies can leave uploads in parts.
type uploader interface {
	// abandoned calls old with the time of each upload that is not complete, and aborts the upload if old returns true.
	abandoned(ctx context.Context, prefix string, old func(begun time.Time) bool) error
}

// Sweep removes the blobs that no manifest of the run names, and aborts uploads that were never completed. A writer leaves them
// when it dies before it creates its manifest. Readers follow manifests alone, so nobody reads them. Sweep keeps what is younger
// than grace, by the store's clock, because a writer may be about to name it. With dry it only counts. The caller must hold the
// run's lease, as for Prune.
func (r *Repository) Sweep(ctx context.Context, run string, grace time.Duration, dry bool) (out Swept, err error) {
	r.writing.Lock()
	defer r.writing.Unlock()
	failed := func(err error) (Swept, error) { return out, fmt.Errorf("checkpoints: sweep run %s: %w", run, err) }
	manifests, err := r.List(ctx, run)
	if err != nil {
		return failed(err)
	}
	live := map[string]bool{}
	for _, m := range manifests {
		for _, f := range m.Files {
			live[blobKey(run, f.SHA256)] = true
		}
	}
	keys, err := r.store.List(ctx, blobKey(run, ""))
	if err != nil {
		return failed(err)
	}
	clock, ok := r.store.(dated)
	if !ok {
		return out, nil // it has no clock, so none of its objects is old
	}
	now, err := clock.now(ctx)
	if err != nil {
		return failed(err)
	}
	old := func(written time.Time) bool {
		young := now.Sub(written) < grace
		if young {
			out.Young++
		}
		return !young
	}
	for _, key := range keys {
		if live[key] {
			continue
		}
		written, err := clock.written(ctx, key)
		if errors.Is(err, ErrNotFound) || err == nil && !old(written) {
			continue
		}
		var size int64
		if err == nil {
			size, err = r.store.Stat(ctx, key)
		}
		if err == nil && !dry {
			err = r.store.Delete(ctx, key)
		}
		if err != nil {
			return failed(err)
		}
		out.Blobs++
		out.Bytes += size
	}
	if s, ok := r.store.(uploader); ok {
		err := s.abandoned(ctx, "runs/"+run+"/", func(begun time.Time) bool {
			if !old(begun) {
				return false
			}
			out.Uploads++
			return !dry
		})
		if err != nil {
			return failed(err)
		}
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
