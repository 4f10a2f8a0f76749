package checkpoints_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/rs/zerolog"
	"pgregory.net/rapid"

	"github.com/ldalign/ldalign/checkpoints"
)

// Whatever is committed and whenever it is pruned, Prune keeps what is needed and removes the rest, and returns the bytes by
// which the store has shrunk.
func TestPruneKeepsWhatIsLive(t *testing.T) {
	ctx := context.Background()
	rapid.Check(t, func(t *rapid.T) {
		root, err := os.MkdirTemp("", "prune") //nolint:usetesting // rapid's T has no TempDir
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(root)
		store, err := checkpoints.OpenDir(root)
		if err != nil {
			t.Fatal(err)
		}
		r := checkpoints.New(store, "", zerolog.Nop())
		detail, err := r.PutBlob(ctx, "run", content(0, 10)) // bytes that a state may have too
		if err != nil {
			t.Fatal(err)
		}
		orphan := fmt.Sprintf("runs/run/blobs/%064d", 0) // of a commit under way
		if err := store.Create(ctx, orphan, []byte("orphan")); err != nil {
			t.Fatal(err)
		}
		var committed []checkpoints.Manifest
		keep := rapid.IntRange(0, 3).Draw(t, "keep") // 0 counts as 1
		for range rapid.IntRange(1, 6).Draw(t, "commits") {
			d := checkpoints.Draft{
				Kind: rapid.SampledFrom([]checkpoints.Kind{
					checkpoints.Policy, checkpoints.Guide, checkpoints.State,
					checkpoints.State, checkpoints.State,
				}).Draw(t, "kind"),
			}
			for i := range rapid.IntRange(0, 2).Draw(t, "files") {
				seed := rapid.IntRange(0, 6).Draw(t, "content") // shared between checkpoints
				d.Files = append(d.Files, checkpoints.FromBytes(fmt.Sprint("f", i), content(uint64(seed), 10*(seed+1))))
			}
			m, err := r.Commit(ctx, "run", d)
			if err != nil {
				t.Fatal(err)
			}
			committed = append(committed, m)
			if !rapid.Bool().Draw(t, "prune") {
				continue
			}
			before := stored(t, root)
			freed, err := r.Prune(ctx, "run", keep)
			if err != nil {
				t.Fatal(err)
			}
			after := stored(t, root)
			if before-after != freed {
				t.Fatalf("freed %d bytes, the store lost %d", freed, before-after)
			}
			checkPruned(t, r, committed, max(keep, 1))
			if freed, err := r.Prune(ctx, "run", keep); err != nil || freed != 0 {
				t.Fatalf("a second prune freed %d (%v)", freed, err)
			}
			if _, err := r.ReadBlob(ctx, "run", detail); err != nil {
				t.Fatalf("a detail is gone: %v", err)
			}
			if _, err := store.Stat(ctx, orphan); err != nil {
				t.Fatalf("a blob that no manifest names yet is gone: %v", err)
			}
		}
	})
}

// checkPruned checks which files can be read after a prune.
func checkPruned(t *rapid.T, r *checkpoints.Repository, committed []checkpoints.Manifest, keep int) {
	ctx := context.Background()
	listed, err := r.List(ctx, "run")
	if err != nil || len(listed) != len(committed) {
		t.Fatalf("%d manifests of %d are left (%v)", len(listed), len(committed), err)
	}
	live := map[string]bool{}
	for i, m := range committed {
		needed := m.Kind != checkpoints.State
		if m.Kind == checkpoints.State {
			states, policies := 0, 0
			for _, later := range committed[i+1:] {
				switch later.Kind {
				case checkpoints.State:
					states++
				case checkpoints.Policy:
					policies++
				case checkpoints.Guide:
				}
			}
			needed = states < keep && policies == 0
		}
		for _, f := range m.Files {
			live[f.SHA256] = live[f.SHA256] || needed
		}
	}
	for _, m := range committed {
		for _, f := range m.Files {
			_, err := r.ReadFile(ctx, "run", f)
			if live[f.SHA256] && err != nil {
				t.Fatalf("%s %d lost its file %s: %v", m.Kind, m.Number, f.Name, err)
			}
			if !live[f.SHA256] && !errors.Is(err, checkpoints.ErrCorrupt) {
				t.Fatalf("%s %d, superseded, still has its file %s (%v)", m.Kind, m.Number, f.Name, err)
			}
		}
	}
}

// stored returns the size of all blobs.
func stored(t *rapid.T, root string) int64 {
	entries, err := os.ReadDir(filepath.Join(root, "runs/run/blobs"))
	if err != nil {
		t.Fatal(err)
	}
	total := int64(0)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	return total
}
