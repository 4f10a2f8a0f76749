package checkpoints_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/checkpoints"
)

// Weights that retention removes are gone, with an error that says why, also after a backup was restored. Blobs that another
// checkpoint names, and all small files, stay.
func TestExpire(t *testing.T) {
	ctx := t.Context()
	store, err := checkpoints.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	r := checkpoints.New(store, t.TempDir(), zerolog.Nop())
	var policies []checkpoints.Manifest
	for i := range uint32(3) {
		m, err := r.Commit(ctx, "run", checkpoints.Draft{
			Kind: checkpoints.Policy, Iteration: i, Files: []checkpoints.Source{
				checkpoints.FromBytes("adapter/adapter_model.safetensors", content(7, 50)), // the same in all
				checkpoints.FromBytes("config.json", content(uint64(10+i), 20)),
				checkpoints.FromBytes("model.safetensors", content(uint64(i), 100)),
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		policies = append(policies, m)
	}
	again := false
	for _, dry := range []bool{true, false, false} {
		got, err := r.Expire(ctx, "run", policies[:2], "a test", dry)
		want := checkpoints.Expiry{Policies: []uint32{0, 1}, Files: 2, Bytes: 200}
		if again {
			want = checkpoints.Expiry{Policies: []uint32{}}
		}
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Fatalf("dry %v, again %v: %v, %s", dry, again, err, diff)
		}
		again = !dry
	}
	check := func(r *checkpoints.Repository) {
		t.Helper()
		for i, m := range policies {
			_, folder := r.Folder(ctx, m)
			_, expired, err := r.Expired(ctx, m)
			if err != nil {
				t.Fatal(err)
			}
			for what, err := range map[string]error{
				"folder": folder, "copy": r.Materialise(ctx, m, t.TempDir()), "whole": r.Whole(ctx, m),
			} {
				if gone := i < 2; gone != errors.Is(err, checkpoints.ErrExpired) || gone != expired ||
					gone != (err != nil) || gone && !strings.Contains(err.Error(), "a test") {
					t.Errorf("policy %d, %s: %v", i, what, err)
				}
			}
			for _, name := range []string{"config.json", "adapter/adapter_model.safetensors"} {
				f, _ := m.File(name)
				if _, err := r.ReadFile(ctx, "run", f); err != nil {
					t.Errorf("policy %d: %v", i, err)
				}
			}
		}
	}
	check(r)
	dir := t.TempDir()
	if err := r.Backup(ctx, "run", dir, func(int64) {}); err != nil {
		t.Fatal(err)
	}
	elsewhere, err := checkpoints.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	restored := checkpoints.New(elsewhere, t.TempDir(), zerolog.Nop())
	if err := restored.Restore(ctx, "run", dir, func(int64) {}); err != nil {
		t.Fatal(err)
	}
	check(restored)
	if err := restored.DeleteRun(ctx, "run"); err != nil {
		t.Fatal(err)
	}
	if keys, err := elsewhere.List(ctx, ""); err != nil || len(keys) > 0 {
		t.Errorf("a deleted run leaves %v, %v", keys, err)
	}
	if _, err := r.Expire(ctx, "other", policies[:1], "a test", false); err == nil {
		t.Error("another run's policy was removed")
	}
}
