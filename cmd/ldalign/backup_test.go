package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/streams/ledger"
)

// A run that was killed, backed up and restored elsewhere continues there, ends with the same weights and the same audit. Then the
// test deletes its parts.
func TestBackupRestoreDelete(t *testing.T) {
	want := undisturbed(t)
	dir, elsewhere, to := t.TempDir(), t.TempDir(), t.TempDir()
	ld := func(in, args string) output { return ldalign(t, append(strings.Fields(args), "--dir", in)...) }
	p := start(t, command("up", tiny, "--dir", dir))
	if !p.eventually(t, "a state of the first iteration", func() bool { return manifests(dir) >= 7 }) {
		t.Fatalf("it ended:\n%s", p.stderr.String())
	}
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.done
	// another run's messages come before, so that no position stays what it was
	edited := filepath.Join(t.TempDir(), "other.yaml")
	spec, err := os.ReadFile("testdata/start.yaml")
	if err != nil {
		t.Fatal(err)
	}
	write(t, edited, string(spec))
	ld(elsewhere, "up "+edited).want(t, 0)
	for _, run := range []string{"tiny-sft", "tiny-ld"} {
		folder := filepath.Join(to, run)
		ld(elsewhere, "restore "+to).want(t, exitUsage, "no complete backup")
		ld(dir, "backup "+run+" --to "+folder).want(t, 0, "` restores it")
		ld(dir, "backup "+run+" --to "+folder).want(t, exitUsage, "complete backup")
		if got := lines[transferred](t, ld(elsewhere, "restore "+folder+" --json")); len(got) != 1 || got[0].Run != run {
			t.Errorf("restore --json: %+v, want run %s", got, run)
		}
		ld(elsewhere, "restore "+folder).want(t, exitFailed, "already exists")
	}
	before, after := ld(dir, "audit tiny-ld --json"), ld(elsewhere, "audit tiny-ld --json")
	if before.stdout == "" || before.stdout != after.stdout {
		t.Errorf("audited before:\n%s\nand after:\n%s", before.stdout, after.stdout)
	}
	ld(elsewhere, "up "+tiny).want(t, 0, "LD-Align 1")
	sameAs(t, want, elsewhere)
	ld(elsewhere, "audit tiny-ld").want(t, 0, "32 trained")

	// a damaged backup is refused, whichever part it is
	blobs, err := filepath.Glob(filepath.Join(to, "tiny-sft", "blobs", "*"))
	if err != nil || len(blobs) == 0 {
		t.Fatal(blobs, err)
	}
	write(t, blobs[0], "something else")
	third := t.TempDir()
	ld(third, "restore "+filepath.Join(to, "tiny-sft")).want(t, exitFailed, "take another copy of the backup")
	edit(t, filepath.Join(to, "tiny-ld", "streams", "prompts.jsonl"), `"seq":`, `"seq": `)
	ld(third, "restore "+filepath.Join(to, "tiny-ld")).want(t, exitFailed, "is not what was backed up")

	// gc and delete
	orphan := filepath.Join(elsewhere, "runs", "tiny-ld", "blobs", strings.Repeat("ab", 32))
	write(t, orphan, "left behind")
	past := time.Now().Add(-48 * time.Hour)
	if err := os.Chtimes(orphan, past, past); err != nil {
		t.Fatal(err)
	}
	ld(elsewhere, "checkpoints gc").want(t, 0, "run tiny-ld: would remove 1 blobs of 11 bytes", "run tiny-sft: would remove 0")
	ld(elsewhere, "checkpoints gc tiny-ld --yes").want(t, 0, "removed 1 blobs")
	ld(elsewhere, "runs delete tiny-sft").want(t, exitFailed, "run tiny-ld needs run tiny-sft as its model.from")
	ld(elsewhere, "runs delete nope").want(t, exitFailed, "no such", "nope")
	ld(elsewhere, "runs delete tiny-ld").want(t, 0, "would delete run tiny-ld", "--yes does it")
	ld(elsewhere, "audit tiny-ld").want(t, 0)
	ld(elsewhere, "runs delete tiny-ld --yes").want(t, 0, "deleted run tiny-ld")
	ld(elsewhere, "audit tiny-ld").want(t, exitFailed, "no such")
	if left, err := os.ReadDir(filepath.Join(elsewhere, "runs", "tiny-ld")); err == nil && len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if o := ld(elsewhere, "runs"); strings.Contains(o.stdout+o.stderr, "tiny-ld") || strings.Contains(o.stderr, "holes") {
		t.Errorf("runs:\n%s%s", o.stdout, o.stderr)
	}
	ld(elsewhere, "up "+tiny).want(t, 0, "LD-Align 1") // the name is free
	sameAs(t, want, elsewhere)
}

// The restore command that backup prints can be pasted into a shell, whatever the folder's name.
func TestBackupSaysHowItIsRestored(t *testing.T) {
	dir, _ := finished(t)
	folder := filepath.Join(t.TempDir(), "Anna's backup ü")
	ldalign(t, "backup", "tiny-sft", "--to", folder, "--dir", dir).
		want(t, 0, "`ldalign restore '"+strings.ReplaceAll(folder, "'", `'\''`)+"'` restores it")
	plain := filepath.Join(t.TempDir(), "backup-ü_1")
	ldalign(t, "backup", "tiny-sft", "--to", plain, "--dir", dir).want(t, 0, "`ldalign restore "+plain+"` restores it")
}

// A run that was killed and restored under another name, beside the original or elsewhere, goes on there and ends as a run that
// always had that name: with its digests, and the original's weights. The original stays as it is.
func TestRestoreAs(t *testing.T) {
	dir, elsewhere, fresh, folder := t.TempDir(), t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "backup")
	ld := func(in, args string) output { return ldalign(t, append(strings.Fields(args), "--dir", in)...) }
	spec, err := os.ReadFile(tiny)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "copy.yaml")
	write(t, copied, strings.Replace(string(spec), "run: tiny-ld", "run: copy", 1))
	ld(fresh, "up "+copied).want(t, 0)
	want := outcomeOf(t, fresh, "tiny-sft", "copy")

	p := start(t, command("up", tiny, "--dir", dir))
	if !p.eventually(t, "a state of the first iteration", func() bool { return manifests(dir) >= 7 }) {
		t.Fatalf("it ended:\n%s", p.stderr.String())
	}
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.done
	ld(dir, "backup tiny-ld --to "+folder).want(t, 0)
	ld(dir, "backup tiny-sft --to "+folder+"-sft").want(t, 0)
	ld(elsewhere, "restore "+folder+"-sft").want(t, 0)
	counts := func(in, run string) []ledger.Balance {
		audits := lines[ledger.Balance](t, ld(in, "audit --json "+run))
		for i := range audits {
			audits[i].Flights = nil // by ids
		}
		return audits
	}
	before := counts(dir, "tiny-ld")
	for _, in := range []string{dir, elsewhere} {
		ld(in, "restore "+folder+" --as Copy").want(t, exitUsage, "cannot be a run's name")
		ld(in, "restore "+folder+" --as tiny-sft").want(t, exitFailed, "already exists")
		ld(in, "restore "+folder+" --as copy").want(t, 0, "run copy is restored")
		if diff := cmp.Diff(before, counts(in, "copy")); diff != "" {
			t.Errorf("the copy's ledger (-original +copy):\n%s", diff)
		}
		ld(in, "up "+copied).want(t, 0)
		if diff := cmp.Diff(want, outcomeOf(t, in, "tiny-sft", "copy")); diff != "" {
			t.Errorf("not what a run of that name gives (-run +copy):\n%s", diff)
		}
		ld(in, "audit copy").want(t, 0, "0 dead, 0 in flight")
		ld(in, "replay copy --exact --as again").want(t, 0, "exact: policy 2 of again")
	}
	ld(dir, "up "+tiny).want(t, 0) // the original goes on too
	sameAs(t, undisturbed(t), dir)
	original, renamed := outcomeOf(t, dir, "tiny-ld"), outcomeOf(t, dir, "copy")
	for i, policy := range []string{" policy 0", " policy 1", " policy 2"} {
		a, b := "tiny-ld"+policy, "copy"+policy
		if original.Weights[a+" model.safetensors"] != renamed.Weights[b+" model.safetensors"] ||
			original.Checkpoints[a] == renamed.Checkpoints[b] {
			t.Errorf("policy %d: weights are to be the same, digests not: %v, %v", i, original, renamed)
		}
	}
	edit(t, filepath.Join(folder, "streams", "pairs.jsonl"), `"seq":`, `"seq": `)
	ld(elsewhere, "restore "+folder+" --as third").want(t, exitFailed, "is not what was backed up")
}

// If the server or the store comes back empty, the run is not started from the beginning.
func TestHalfOfARunIsRefused(t *testing.T) {
	shared, _ := finished(t)
	for half, says := range map[string]string{
		"runs": "the checkpoint store has nothing of run tiny-sft", "nats": "the streams have nothing of run tiny-sft",
	} {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(shared)); err != nil {
			t.Fatal(err)
		}
		remove(t, filepath.Join(dir, half))
		ldalign(t, "up", tiny, "--dir", dir).want(t, exitFailed, says, "ldalign restore")
		if half == "nats" {
			continue // who only reads finds no run
		}
		ldalign(t, "audit", "tiny-ld", "--dir", dir).
			want(t, exitFailed, "0 ready", "the log names policy 2", "2 of 2 iterations of run tiny-ld do not balance")
		ldalign(t, "backup", "tiny-ld", "--to", t.TempDir(), "--dir", dir).
			want(t, exitFailed, "the checkpoint store has nothing of run tiny-ld", "ldalign restore")
	}
}
