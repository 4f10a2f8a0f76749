package checkpoints

import (
	"context"
	"fmt"
	"slices"
)

// Prune deletes the blobs that only superseded states name, and returns the bytes freed. A state is superseded by a later
// policy, or by keep later states (at least 1). With more than one, a run can resume from an older state when the
// newest is damaged. Prune keeps the blobs of policies and guides, blobs that no manifest names (a writer may be about to
// name them), and all manifests. Only the run's writer may call it.
func (r *Repository) Prune(ctx context.Context, run string, keep int) (freed int64, err error) {
	r.writing.Lock()
	defer r.writing.Unlock()
	keys, err := r.keys(ctx, run)
	if err != nil {
		return 0, err
	}
	live := map[string]bool{}
	var superseded []Manifest
	keep = max(keep, 1)
	for _, key := range slices.Backward(keys) {
		if r.isPruned(key) {
			continue
		}
		m, err := r.manifest(ctx, key)
		if err != nil {
			return 0, err
		}
		if m.Kind == State && keep == 0 {
			superseded = append(superseded, m)
			continue
		}
		for _, f := range m.Files {
			live[blobKey(run, f.SHA256)] = true
		}
		switch m.Kind {
		case State:
			keep--
		case Policy:
			keep = 0
		case Guide:
		}
	}
	there, err := r.store.List(ctx, blobKey(run, ""))
	if err != nil {
		return 0, err
	}
	blobs := 0
	for _, m := range superseded {
		for _, f := range m.Files {
			key := blobKey(run, f.SHA256)
			if _, found := slices.BinarySearch(there, key); !found || live[key] {
				continue
			}
			live[key] = true // count a blob once, though several states may name it
			if err := r.store.Delete(ctx, key); err != nil {
				return freed, fmt.Errorf("checkpoints: prune run %s: %w", run, err)
			}
			freed += f.Bytes
			blobs++
		}
		r.forget(m.Key)
	}
	if blobs > 0 {
		r.log.Info().Str("run", run).Int("blobs", blobs).Int64("bytes", freed).Msg("superseded states pruned")
	}
	return freed, nil
}

// forget notes that a superseded state is pruned. Its remaining files belong to other checkpoints and are pruned with those.
func (r *Repository) forget(key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pruned[key] = true
	delete(r.manifests, key)
}

// isPruned reports whether a manifest is of a superseded state that Prune has finished with.
func (r *Repository) isPruned(key string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pruned[key]
}
