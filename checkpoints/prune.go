package checkpoints

import (
	"context"
	"fmt"
	"slices"
)

// Prune deletes the blobs that only superseded states name and gives the bytes freed. A state is superseded by a later
// state or policy; the newest state is kept if no policy came after it. What a policy or a guide names is kept, and so
// are blobs that no manifest names (a writer may be about to) and all manifests. Only the run's writer may call it.
func (r *Repository) Prune(ctx context.Context, run string) (freed int64, err error) {
	r.writing.Lock()
	defer r.writing.Unlock()
	manifests, err := r.List(ctx, run)
	if err != nil {
		return 0, err
	}
	live := map[string]bool{}
	var superseded []File
	current := true // no later state or policy seen yet
	for _, m := range slices.Backward(manifests) {
		if m.Kind == State && !current {
			superseded = append(superseded, m.Files...)
			continue
		}
		for _, f := range m.Files {
			live[blobKey(run, f.SHA256)] = true
		}
		if m.Kind != Guide {
			current = false
		}
	}
	keys, err := r.store.List(ctx, blobKey(run, ""))
	if err != nil {
		return 0, err
	}
	blobs := 0
	for _, f := range superseded {
		key := blobKey(run, f.SHA256)
		if _, there := slices.BinarySearch(keys, key); !there || live[key] {
			continue
		}
		live[key] = true // counted once, though several states may name it
		if err := r.store.Delete(ctx, key); err != nil {
			return freed, fmt.Errorf("checkpoints: prune run %s: %w", run, err)
		}
		freed += f.Bytes
		blobs++
	}
	if blobs > 0 {
		r.log.Info().Str("run", run).Int("blobs", blobs).Int64("bytes", freed).Msg("superseded states pruned")
	}
	return freed, nil
}
