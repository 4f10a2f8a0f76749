package checkpoints

import (
	"context"
	"fmt"
	"slices"
)

// Prune deletes the blobs that only superseded states name and gives the bytes freed. A state is superseded by a later
// policy, or by as many later states as are to be kept, which is at least 1: more than one lets a run go on from an older
// state when the newest is damaged. What a policy or a guide names is kept, and so are blobs that no manifest names (a
// writer may be about to) and all manifests. Only the run's writer may call it.
func (r *Repository) Prune(ctx context.Context, run string, keep int) (freed int64, err error) {
	r.writing.Lock()
	defer r.writing.Unlock()
	manifests, err := r.List(ctx, run)
	if err != nil {
		return 0, err
	}
	live := map[string]bool{}
	var superseded []File
	keep = max(keep, 1)
	for _, m := range slices.Backward(manifests) {
		if m.Kind == State && keep == 0 {
			superseded = append(superseded, m.Files...)
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
