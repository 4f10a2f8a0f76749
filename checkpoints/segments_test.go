package checkpoints_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/checkpoints"
)

// TestSegments: lines in segments stay as long as a state names them, through pruning, sweeping, backup, renaming and
// restoring, and are read before the state's own lines.
func TestSegments(t *testing.T) {
	both(t, func(t *testing.T, f fixture) {
		ctx := t.Context()
		commit := func(kind checkpoints.Kind, files ...checkpoints.Source) checkpoints.Manifest {
			t.Helper()
			m, err := f.Commit(ctx, "run", checkpoints.Draft{Kind: kind, Files: files})
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		file := func(name string, b checkpoints.Batches) checkpoints.Source {
			return checkpoints.FromBytes(name, written(t, b))
		}
		step := func(n, pair int) checkpoints.Batch { return checkpoints.Batch{Step: n, Pairs: []int{pair}} }
		pairs := file("batches/pairs-00000000.jsonl", checkpoints.Batches{Pairs: []string{"a", "b"}})
		one := commit(checkpoints.State, pairs, file(checkpoints.BatchesFile, checkpoints.Batches{
			Pairs: []string{"c"}, Earlier: 1, Steps: []checkpoints.Batch{step(1, 1)},
		}))
		two := commit(checkpoints.State, checkpoints.Carry(one.Segments(checkpoints.BatchesFile)[0]),
			file("batches/steps-00000000.jsonl", checkpoints.Batches{Steps: []checkpoints.Batch{step(1, 1), step(2, 0)}}),
			file(checkpoints.BatchesFile, checkpoints.Batches{
				Pairs: []string{"c"}, Earlier: 1, Skipped: []checkpoints.Skipped{{ID: "d", Reason: "empty"}},
				Steps: []checkpoints.Batch{step(3, 2)},
			}))
		want := func(name func(string) string) checkpoints.Batches {
			return checkpoints.Batches{
				Pairs: []string{name("a"), name("b"), name("c")}, Earlier: 1,
				Skipped: []checkpoints.Skipped{{ID: name("d"), Reason: "empty"}},
				Steps:   []checkpoints.Batch{step(1, 1), step(2, 0), step(3, 2)},
			}
		}
		same := func(id string) string { return id }
		read := func(r *checkpoints.Repository, m checkpoints.Manifest, name func(string) string) {
			t.Helper()
			got, err := r.Batches(ctx, m)
			if diff := cmp.Diff(want(name), got, cmpopts.EquateEmpty()); err != nil || diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		}
		if _, err := f.Prune(ctx, "run", 1); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Sweep(ctx, "run", 0, false); err != nil {
			t.Fatal(err)
		}
		read(f.Repository, two, same)
		if _, err := f.Batches(ctx, one); !errors.Is(err, checkpoints.ErrCorrupt) {
			t.Errorf("the superseded state: %v, want ErrCorrupt", err)
		}

		saved, renamed := t.TempDir(), t.TempDir()
		if err := f.Backup(ctx, "run", saved, func(int64) {}); err != nil {
			t.Fatal(err)
		}
		other := func(id string) string { return "other-" + id }
		digests, err := checkpoints.RenameBackup(saved, renamed, "run", "other", other)
		if err != nil {
			t.Fatal(err)
		}
		store, err := checkpoints.OpenDir(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		elsewhere := checkpoints.New(store, filepath.Join(t.TempDir(), "cache"), zerolog.Nop())
		if err := elsewhere.Restore(ctx, "other", renamed, func(int64) {}); err != nil {
			t.Fatal(err)
		}
		m, err := elsewhere.ByDigest(ctx, "other", digests[two.Digest])
		if err != nil {
			t.Fatal(err)
		}
		read(elsewhere, m, other)

		policy := commit(checkpoints.Policy, file(checkpoints.BatchesFile, want(same)))
		if freed, err := f.Prune(ctx, "run", 1); err != nil || freed == 0 {
			t.Errorf("pruned behind a policy: %d bytes, %v", freed, err)
		}
		if _, err := f.Batches(ctx, two); !errors.Is(err, checkpoints.ErrCorrupt) {
			t.Errorf("the last state, superseded: %v, want ErrCorrupt", err)
		}
		read(f.Repository, policy, same)
		if all, err := f.List(ctx, "run"); err != nil || len(all) != 3 {
			t.Errorf("%d manifests, %v; all of them stay", len(all), err)
		}
		for _, find := range []func() (checkpoints.Manifest, error){
			func() (checkpoints.Manifest, error) { return f.Latest(ctx, "run", checkpoints.State) },
			func() (checkpoints.Manifest, error) { return f.ByDigest(ctx, "run", two.Digest) },
		} {
			if got, err := find(); err != nil || got.Digest != two.Digest {
				t.Errorf("got %s, %v; a pruned state is still listed", got.Key, err)
			}
		}
	})
}

// TestDamagedBlobIsWrittenAnew: a commit writes a blob again once the process has seen that it is damaged.
func TestDamagedBlobIsWrittenAnew(t *testing.T) {
	both(t, func(t *testing.T, f fixture) {
		commit := func() checkpoints.Manifest {
			t.Helper()
			m, err := f.Commit(t.Context(), "run", checkpoints.Draft{
				Kind: checkpoints.State, Files: []checkpoints.Source{checkpoints.FromBytes("file", []byte("as it was"))},
			})
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		m := commit()
		path := filepath.Join(f.root, "runs/run/blobs", m.Files[0].SHA256)
		if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, []byte("as it is!"), 0o600)); err != nil {
			t.Fatal(err)
		}
		if _, err := f.ReadFile(t.Context(), "run", m.Files[0]); !errors.Is(err, checkpoints.ErrCorrupt) {
			t.Fatalf("got %v, want ErrCorrupt", err)
		}
		commit()
		got, err := f.again().ReadFile(t.Context(), "run", m.Files[0])
		if err != nil || string(got) != "as it was" {
			t.Errorf("read %q, %v", got, err)
		}
	})
}
