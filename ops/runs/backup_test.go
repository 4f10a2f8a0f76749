package runs

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/ops/runs/derive"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/ledger"
)

// ledger is what an audit of a run gives, as text.
func (w world) ledger(spec schemas.Spec) string {
	w.t.Helper()
	balances, err := Audit(w.t.Context(), w.Session, spec, AuditOptions{Iteration: streams.AllIterations})
	w.must(err)
	text, err := json.Marshal(balances)
	w.must(err)
	return string(text)
}

// restored restores a backup and counts what it is told of.
func (w world) restored(dir string, request derive.Restore) (spec schemas.Spec, messages, files int, err error) {
	spec, err = Restore(w.t.Context(), w.Session, dir, request, RestoreProgress{
		Message: func() { messages++ }, File: func() { files++ },
	})
	return spec, messages, files, err
}

// A backup is restored under its own name or another one, elsewhere or beside the original, and audits as that.
func TestBackupAndRestore(t *testing.T) {
	w, elsewhere := newWorld(t), newWorld(t)
	spec, folder := w.finished("align"), filepath.Join(t.TempDir(), "copy")
	elsewhere.finished("other") // so that no message stands where it stood
	items := 0
	w.must(Backup(t.Context(), w.Session, spec, folder, func() { items++ }))
	saved, err := ReadBackup(folder)
	w.must(err)
	if saved.Messages() == 0 || items <= saved.Messages() {
		t.Errorf("%d messages and %d items", saved.Messages(), items)
	}
	if err := Backup(t.Context(), w.Session, spec, folder, func() {}); !errors.Is(err, derive.ErrRequest) {
		t.Errorf("over a complete backup: %v", err)
	}
	if _, _, _, err := w.restored(t.TempDir(), derive.Restore{}); !errors.Is(err, derive.ErrRequest) || !strings.Contains(err.Error(), "no complete backup") {
		t.Errorf("from an empty folder: %v", err)
	}
	if _, _, _, err := w.restored(folder, derive.Restore{}); err == nil || !strings.Contains(err.Error(), "run align already exists") {
		t.Errorf("over the original: %v", err)
	}
	got, messages, files, err := elsewhere.restored(folder, derive.Restore{})
	w.must(err)
	if diff := cmp.Diff(spec, got); diff != "" || messages != saved.Messages() || files == 0 {
		t.Errorf("%d messages, %d files, another spec:\n%s", messages, files, diff)
	}
	want := w.ledger(spec)
	if got := elsewhere.ledger(spec); got != want {
		t.Errorf("audited before:\n%s\nand after:\n%s", want, got)
	}
	for _, in := range []world{w, elsewhere} {
		renamed, _, _, err := in.restored(folder, derive.Restore{As: "copy"})
		if err != nil || renamed.Run != "copy" || in.ledger(renamed) != want {
			t.Fatalf("the copy, %v:\n%s\nwant:\n%s", err, in.ledger(renamed), want)
		}
		original, err := w.Checkpoints.Policy(t.Context(), "align", 2)
		w.must(err)
		policy, err := in.Checkpoints.Policy(t.Context(), "copy", 2)
		w.must(err)
		if policy.Digest == original.Digest || sha(policy, checkpoints.WeightsFile) != sha(original, checkpoints.WeightsFile) {
			t.Errorf("the copy's policy is %.12s, the original's %.12s", policy.Digest, original.Digest)
		}
	}
	replay := w.spec("again")
	replay.Source = &schemas.SourceSpec{Run: "align", From: "scored"}
	if err := Backup(t.Context(), w.Session, replay, t.TempDir(), func() {}); err == nil || !strings.Contains(err.Error(), "back up run align") {
		t.Errorf("a replay: %v", err)
	}
}

// A backup that is damaged is refused, whichever part it is.
func TestDamagedBackup(t *testing.T) {
	w := newWorld(t)
	spec := w.finished("align")
	for part, says := range map[string]string{
		"streams/prompts.jsonl": "is not what was backed up", "blobs": "take another copy of the backup", BackupFile: "backup.json",
	} {
		for _, as := range []string{"", "copy"} {
			folder, elsewhere := filepath.Join(t.TempDir(), "copy"), newWorld(t)
			w.must(Backup(t.Context(), w.Session, spec, folder, func() {}))
			path := filepath.Join(folder, part)
			if part == "blobs" {
				policy, err := w.Checkpoints.Policy(t.Context(), "align", 1)
				w.must(err)
				path = filepath.Join(path, sha(policy, checkpoints.BatchesFile))
			}
			data, err := os.ReadFile(path)
			w.must(err)
			w.must(os.WriteFile(path, data[:len(data)-3], 0o644))
			if _, _, _, err := elsewhere.restored(folder, derive.Restore{As: as}); err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("damaged %s, as %q: %v, want %q", part, as, err, says)
			}
			for _, run := range []string{"align", "copy"} {
				if facts, err := Facts(t.Context(), elsewhere.Session, spec, derive.Needs{Runs: []string{run}}); err != nil || len(facts.Declared) > 0 {
					t.Errorf("damaged %s: run %s is declared, %v", part, run, err)
				}
			}
		}
	}
}

// FuzzParseBackup: whatever stands in backup.json, it is read or refused, and what is read can be written, read again and
// renamed.
func FuzzParseBackup(f *testing.F) {
	b := Saved{Format: backupFormat, Run: "r", Spec: "run: r\nmodel: {from: x}\ndata: {train: y}\n"}
	for _, kind := range streams.Logs() {
		b.Streams = append(b.Streams, SavedStream{kind, 3, strings.Repeat("ab", 32)})
	}
	b.Progress = []ledger.Progress{{Stage: "generator", Kind: schemas.Prompts, Settled: 7}}
	for _, change := range []func(*Saved){
		func(*Saved) {}, func(b *Saved) { b.Format = 2 }, func(b *Saved) { b.Run = "../r" }, func(b *Saved) { b.Spec = "---\n---\n" },
		func(b *Saved) { b.Streams = b.Streams[1:] }, func(b *Saved) { b.Progress[0].Stage = "a_b" },
	} {
		c := b
		c.Progress = slices.Clone(b.Progress)
		change(&c)
		data, err := json.Marshal(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		f.Add(data[:len(data)/2])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := parseBackup("folder", data)
		if err != nil {
			return
		}
		again, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		c, err := parseBackup("folder", again)
		if err != nil || !cmp.Equal(b, c) {
			t.Fatalf("read again it is %+v, %v; was %+v", c, err, b)
		}
		text, err := renameSpec([]byte(b.Spec), "copy")
		if err != nil {
			return
		}
		specs, err := schemas.ParseSpecs("copy", text)
		if err != nil || len(specs) != 1 || specs[0].Run != "copy" {
			t.Fatalf("renamed, the spec is %s: %v", text, err)
		}
	})
}
