package checkpoints_test

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/checkpoints"
)

// A sweep removes old blobs that no manifest names, and nothing else; a deleted run leaves nothing.
func TestSweepAndDelete(t *testing.T) {
	dir := t.TempDir()
	store, err := checkpoints.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	r := checkpoints.New(store, filepath.Join(dir, "cache"), zerolog.Nop())
	ctx := t.Context()
	for _, run := range []string{"r", "other"} {
		if _, err := r.Commit(ctx, run, checkpoints.Draft{Kind: checkpoints.Policy, Files: []checkpoints.Source{checkpoints.FromBytes("weights", []byte(run))}}); err != nil {
			t.Fatal(err)
		}
	}
	// what a writer leaves that dies before its manifest, long ago and just now
	for _, name := range []string{"old", "young"} {
		sum := sha256.Sum256([]byte(name))
		if err := store.Put(ctx, "runs/r/blobs/"+hex.EncodeToString(sum[:]), strings.NewReader(name), int64(len(name))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.PutBlob(ctx, "r", []byte("details")); err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-48 * time.Hour)
	keys, err := store.List(ctx, "runs/r/blobs/")
	if err != nil || len(keys) != 3 {
		t.Fatalf("%v, %v", keys, err)
	}
	for _, key := range keys {
		path := filepath.Join(dir, filepath.FromSlash(key))
		if data, err := os.ReadFile(path); err != nil || string(data) == "young" {
			continue
		}
		if err := os.Chtimes(path, past, past); err != nil {
			t.Fatal(err)
		}
	}
	for _, dry := range []bool{true, false} {
		got, err := r.Sweep(ctx, "r", 24*time.Hour, dry)
		if err != nil || got != (checkpoints.Swept{Blobs: 1, Bytes: 3, Young: 1}) {
			t.Errorf("dry %v: %+v, %v", dry, got, err)
		}
	}
	if got, err := r.Sweep(ctx, "r", 24*time.Hour, false); err != nil || got != (checkpoints.Swept{Young: 1}) {
		t.Errorf("again: %+v, %v", got, err)
	}
	m, err := r.Latest(ctx, "r")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadFile(ctx, "r", m.Files[0]); err != nil {
		t.Errorf("what a manifest names: %v", err)
	}
	if manifests, objects, bytes, err := r.Size(ctx, "r"); err != nil || manifests != 1 || objects != 4 || bytes == 0 {
		t.Errorf("size %d, %d, %d, %v", manifests, objects, bytes, err)
	}
	for range 2 {
		if err := r.DeleteRun(ctx, "r"); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := store.List(ctx, "runs/r/"); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if runs, err := r.Runs(ctx); err != nil || len(runs) != 1 || runs[0] != "other" {
		t.Errorf("runs %v, %v", runs, err)
	}
}
