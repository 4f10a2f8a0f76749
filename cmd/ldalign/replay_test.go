package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer/lineage"
)

// finishedCopy is a folder of the test's own in which tiny.yaml has run to its end.
func finishedCopy(t *testing.T) string {
	t.Helper()
	shared, _ := finished(t)
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(shared)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// messages counts what a run has in its own logs, by kind.
func (n *node) messages(t *testing.T, run string) map[schemas.Kind]int {
	t.Helper()
	out := map[schemas.Kind]int{}
	for _, kind := range []schemas.Kind{schemas.Prompts, schemas.Pairs, schemas.Encoded, schemas.Scored, schemas.DeadLetters} {
		err := n.Streams.Read(t.Context(), kind, run, streams.AllIterations, 0, func(streams.Received) error {
			out[kind]++
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// weights is the sha256 of the weights of a run's policy.
func (n *node) weights(t *testing.T, run string, iteration uint32) string {
	t.Helper()
	m, err := n.Checkpoints.Policy(t.Context(), run, iteration)
	if err != nil {
		t.Fatal(err)
	}
	f, _ := m.File(checkpoints.WeightsFile)
	return f.SHA256
}

// TestReplayIsExact: the same spec gives the same weights from each log, and only the stages behind it have worked.
func TestReplayIsExact(t *testing.T) {
	dir := finishedCopy(t)
	for _, c := range []struct {
		from string
		// made are the kinds of messages that the replay's own stages wrote
		made []schemas.Kind
	}{
		{"scored", nil},
		{"encoded", []schemas.Kind{schemas.Scored}},
		{"pairs", []schemas.Kind{schemas.Encoded, schemas.Scored}},
		{"prompts", []schemas.Kind{schemas.Pairs, schemas.Encoded, schemas.Scored}},
	} {
		t.Run(c.from, func(t *testing.T) {
			as := "again-" + c.from
			var before, after map[schemas.Kind]int
			attached(t, dir, func(n *node) { before = n.messages(t, "tiny-ld") })
			ldalign(t, "replay", "tiny-ld", "--from", c.from, "--exact", "--as", as, "--dir", dir).
				want(t, 0, "exact: policy 1 of "+as, "exact: policy 2 of "+as)
			attached(t, dir, func(n *node) {
				made := n.messages(t, as)
				for _, kind := range c.made {
					if made[kind] != 64 {
						t.Errorf("%d %s, want 64", made[kind], kind)
					}
					delete(made, kind)
				}
				if len(made) > 0 {
					t.Errorf("stages in front of the log have worked, or messages were copied: %v", made)
				}
				after = n.messages(t, "tiny-ld")
				for i := range uint32(3) {
					if n.weights(t, as, i) != n.weights(t, "tiny-ld", i) {
						t.Errorf("policy %d has other weights", i)
					}
				}
			})
			if fmt.Sprint(before) != fmt.Sprint(after) {
				t.Errorf("the source's logs had %v and have %v", before, after)
			}
			ldalign(t, "audit", as, "--dir", dir).want(t, 0, "iteration 1: 32 prompts", "0 dead, 0 in flight")
			ldalign(t, "status", as, "--dir", dir).want(t, 0, "complete, policy 2 of 2, 2 evaluated",
				"replay of run tiny-ld from "+c.from+", iterations 0 to 1, sequences ")
		})
	}
	ldalign(t, "runs", "--dir", dir).want(t, 0, "again-pairs", "replay of run tiny-ld from pairs")
	runs := lines[runs.Status](t, ldalign(t, "runs", "--json", "--dir", dir))
	if len(runs) != 6 || runs[2].Run != "again-prompts" || runs[2].Source == nil || runs[2].Source.Run != "tiny-ld" {
		t.Errorf("runs --json: %+v", runs)
	}
	attached(t, dir, func(n *node) {
		found, err := lineage.Descendants(t.Context(), n.Streams, "tiny-ld")
		if err != nil || strings.Join(found, " ") != "again-encoded again-pairs again-prompts again-scored" {
			t.Errorf("descendants %v, %v", found, err)
		}
		m, err := n.Checkpoints.Policy(t.Context(), "again-scored", 2)
		if err != nil {
			t.Fatal(err)
		}
		file, ok := m.File(lineage.File)
		if !ok {
			t.Fatal("the policy does not say what its run began with")
		}
		data, err := n.Checkpoints.ReadFile(t.Context(), "again-scored", file)
		var source schemas.SourceSpec
		if err = errors.Join(err, json.Unmarshal(data, &source)); err != nil || source != *runs[3].Source {
			t.Errorf("%s, %v; want %+v", data, err, runs[3].Source)
		}
	})
	ldalign(t, "report", "again-encoded", "--dir", dir).want(t, 0, "LD-Align (again-encoded) 1")
	ldalign(t, "tail", "ldalign.scored.again-encoded.0", "-n", "1", "--dir", dir).want(t, 0, `"again-encoded"`)
}

// TestReplayWithAnotherBeta gives other weights, and those of a fresh run whose iteration 0 has the same pairs.
func TestReplayWithAnotherBeta(t *testing.T) {
	dir := finishedCopy(t)
	ldalign(t, "replay", "tiny-ld", "--set", "objective.beta=0.05", "--as", "low", "--dir", dir).want(t, 0, "report")
	ldalign(t, "status", "low", "--dir", dir).want(t, 0, "complete, policy 1 of 1, 1 evaluated", "from scored, iteration 0, sequences 1 to 32")
	// the second document of tiny.yaml alone, as a run of its own
	text, err := os.ReadFile(tiny)
	if err != nil {
		t.Fatal(err)
	}
	_, second, _ := strings.Cut(string(text), "---\n")
	spec := filepath.Join(t.TempDir(), "fresh.yaml")
	write(t, spec, strings.Replace(second, "run: tiny-ld", "run: fresh", 1))
	ldalign(t, "up", spec, "--set", "objective.beta=0.05", "--set", "iterations=1", "--dir", dir).want(t, 0, "report")
	attached(t, dir, func(n *node) {
		if n.weights(t, "low", 1) == n.weights(t, "tiny-ld", 1) {
			t.Error("another beta has the same weights")
		}
		if n.weights(t, "low", 1) != n.weights(t, "fresh", 1) {
			t.Error("a fresh run of the same spec has other weights")
		}
	})
	// a replay of a later iteration starts from the source's policy of that iteration
	ldalign(t, "replay", "tiny-ld", "--iteration", "1", "--exact", "--as", "last", "--dir", dir).
		want(t, 0, "exact: policy 2 of last")
	ldalign(t, "replay", "tiny-ld", "--iteration", "1", "--from", "pairs", "--exact", "--as", "last-pairs", "--dir", dir).
		want(t, 0, "exact: policy 2 of last-pairs")
	// off-policy: the whole run on the source's pairs, with another beta
	ldalign(t, "replay", "tiny-ld", "--set", "objective.beta=0.05", "--off-policy", "--as", "off", "--dir", dir).want(t, 0, "report")
	attached(t, dir, func(n *node) {
		if n.weights(t, "off", 1) != n.weights(t, "low", 1) || n.weights(t, "off", 2) == n.weights(t, "tiny-ld", 2) {
			t.Error("off-policy, iteration 0 is that of the replay, and iteration 1 one of its own")
		}
	})
	// a replay of a replay, whose pairs are the first run's
	ldalign(t, "replay", "tiny-ld", "--from", "encoded", "--set", "objective.distance=cosine", "--as", "cosine", "--dir", dir).want(t, 0)
	ldalign(t, "replay", "cosine", "--exact", "--as", "cosine-again", "--dir", dir).want(t, 0, "exact: policy 1 of cosine-again")
	// another guide, another temperature, another objective
	ldalign(t, "replay", "tiny-ld", "--from", "pairs", "--set", "guide.latent_dim=4", "--as", "narrow", "--dir", dir).want(t, 0)
	ldalign(t, "replay", "tiny-ld", "--from", "prompts", "--set", "generation.temperature=0.5", "--as", "cool", "--dir", dir).
		want(t, 0, "generator")
	ldalign(t, "replay", "tiny-ld", "--from", "pairs", "--set", "objective.kind=spin", "--as", "spin", "--dir", dir).want(t, 0)
	ldalign(t, "replay", "tiny-ld", "--from", "scored", "--set", "objective.kind=spin", "--as", "spin-scored", "--dir", dir).want(t, 0)
	attached(t, dir, func(n *node) {
		seen := map[string]string{n.weights(t, "tiny-ld", 1): "tiny-ld"}
		for _, run := range []string{"cosine", "narrow", "cool", "spin"} {
			if other := seen[n.weights(t, run, 1)]; other != "" {
				t.Errorf("%s has the weights of %s", run, other)
			}
			seen[n.weights(t, run, 1)] = run
		}
		if n.weights(t, "spin", 1) != n.weights(t, "spin-scored", 1) {
			t.Error("SPIN needs no distances, and gave other weights where they were in the log")
		}
	})
	for _, run := range []string{"last", "off", "cosine-again", "cool", "spin-scored"} {
		ldalign(t, "audit", run, "--dir", dir).want(t, 0, "0 dead, 0 in flight")
	}
}

// TestReplayRefuses what the log cannot give, with the reason, and makes nothing.
func TestReplayRefuses(t *testing.T) {
	dir := finishedCopy(t)
	for _, c := range []struct {
		args string
		code int
		says []string
	}{
		{"tiny-ld --set generation.temperature=0.5", exitUsage, []string{"generation.temperature", "--from scored", "use --from prompts"}},
		{"tiny-ld --set objective.distance=cosine", exitUsage, []string{"objective.distance", "use --from encoded"}},
		{"tiny-ld --from encoded --set guide.latent_dim=3", exitUsage, []string{"guide.latent_dim", "use --from pairs"}},
		{"tiny-ld --from prompts --set data.limit=8", exitUsage, []string{"data.limit", "ldalign up"}},
		{"tiny-ld --set iterations=1", exitUsage, []string{"--iteration"}},
		{"tiny-ld --set objective.betta=1", exitUsage, []string{"did you mean beta?"}},
		{"tiny-ld --set run=y", exitUsage, []string{"--as"}},
		{"tiny-ld --iteration all --set objective.beta=0.05", exitUsage, []string{"objective.beta", "policy 1", "--off-policy"}},
		{"tiny-ld --iteration 2", exitUsage, []string{"iterations 0 to 1"}},
		{"tiny-ld --exact --set objective.beta=0.05", exitUsage, []string{"--exact", "objective.beta"}},
		{"tiny-sft", exitUsage, []string{"tiny-sft (sft) has no scored in its log", "prompts"}},
		{"nope", exitFailed, []string{"no such run: nope"}},
	} {
		t.Run(c.args, func(t *testing.T) {
			args := append([]string{"replay", "--as", "x", "--dir", dir}, strings.Fields(c.args)...)
			ldalign(t, args...).want(t, c.code, c.says...)
		})
	}
	ldalign(t, "replay", "tiny-ld", "--as", "tiny-ld", "--dir", dir).want(t, exitUsage, "a name other than")
	ldalign(t, "replay", "tiny-ld", "--as", "Not A Name", "--dir", dir).want(t, exitUsage, "cannot be a run's name")
	ldalign(t, "replay", "tiny-ld", "--as", "x", "--dry-run", "--set", "objective.beta=0.05", "--dir", dir).
		want(t, 0, "objective.beta: 0.05, was 0.5", "stages that run: evaluator, trainer", "source:")
	if _, err := os.Stat(filepath.Join(dir, "runs", "x")); err == nil {
		t.Error("a run that was refused, or only planned, has left something")
	}
	// one that has begun is another run when asked for something else
	ldalign(t, "replay", "tiny-ld", "--as", "one", "--set", "objective.beta=0.05", "--dir", dir).want(t, 0)
	ldalign(t, "replay", "tiny-ld", "--as", "one", "--set", "objective.beta=0.05", "--dir", dir).want(t, 0)
	ldalign(t, "replay", "tiny-ld", "--as", "one", "--set", "objective.beta=0.1", "--dir", dir).
		want(t, exitFailed, "run one exists with another spec")
}

// TestFork: a policy of a run is policy 0 of another, which goes on from it by itself.
func TestFork(t *testing.T) {
	dir := finishedCopy(t)
	ldalign(t, "fork", "tiny-ld@1", "--set", "objective.beta=0.2", "--as", "branch", "--dry-run", "--dir", dir).
		want(t, 0, "fork of run tiny-ld at policy 1", "objective.beta: 0.2, was 0.5", "iterations: 1, was 2", "guide.from: run:tiny-ld")
	ldalign(t, "fork", "tiny-ld@1", "--set", "objective.beta=0.2", "--as", "branch", "--dir", dir).want(t, 0, "generator", "report")
	ldalign(t, "fork", "tiny-ld@1", "--set", "objective.beta=0.2", "--as", "branch", "--dir", dir).want(t, 0)
	ldalign(t, "status", "branch", "--dir", dir).want(t, 0, "complete, policy 1 of 1, 2 evaluated", "fork of run tiny-ld at policy 1")
	ldalign(t, "audit", "branch", "--dir", dir).want(t, 0, "32 trained")
	attached(t, dir, func(n *node) {
		if n.weights(t, "branch", 0) != n.weights(t, "tiny-ld", 1) {
			t.Error("it does not start from the policy that it was forked from")
		}
		first, err := n.Checkpoints.Policy(t.Context(), "branch", 0)
		if err != nil {
			t.Fatal(err)
		}
		from, err := n.Checkpoints.Policy(t.Context(), "tiny-ld", 1)
		if err != nil || first.Parent != from.Digest {
			t.Errorf("its parent is %.12s, %v; want %.12s", first.Parent, err, from.Digest)
		}
	})
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"tiny-ld@7", exitFailed, "policy of iteration 7"},
		{"tiny-ld@last", exitUsage, "whole number"},
		{"nope@1", exitFailed, "no such run"},
		{"tiny-ld@1 --set model.from=run:tiny-ld@2", exitUsage, "not from another model"},
	} {
		ldalign(t, append([]string{"fork", "--dir", dir}, strings.Fields(c.args)...)...).want(t, c.code, c.says)
	}
}

// TestReplayOfARestoredLog: a replay that was pinned before its source was backed up, deleted and restored, into the same server
// or another one, where no message has the place that it had, makes the same policies to the last bit.
func TestReplayOfARestoredLog(t *testing.T) {
	dir, elsewhere, folder := finishedCopy(t), t.TempDir(), t.TempDir()
	ld := func(in, args string) output { return ldalign(t, append(strings.Fields(args), "--dir", in)...) }
	ld(dir, "replay tiny-ld --from encoded --set objective.distance=cosine --as pinned").want(t, 0)
	want := outcomeOf(t, dir, "pinned")
	pinned := filepath.Join(folder, "pinned.yaml")
	write(t, pinned, ld(dir, "status pinned --spec").stdout)
	for _, run := range []string{"tiny-sft", "tiny-ld"} {
		ld(dir, "backup "+run+" --to "+filepath.Join(folder, run)).want(t, 0)
	}
	ld(dir, "backup pinned --to "+filepath.Join(folder, "pinned")).want(t, exitFailed, "replay it again")
	ld(elsewhere, "up testdata/start.yaml").want(t, 0)
	ld(elsewhere, "restore "+filepath.Join(folder, "tiny-sft")).want(t, 0)
	for _, run := range []string{"pinned", "tiny-ld"} {
		ld(dir, "runs delete "+run+" --yes").want(t, 0)
	}
	for _, in := range []string{dir, elsewhere} {
		ld(in, "restore "+filepath.Join(folder, "tiny-ld")).want(t, 0)
		ld(in, "up "+pinned).want(t, 0)
		if diff := cmp.Diff(want, outcomeOf(t, in, "pinned")); diff != "" {
			t.Errorf("not what it was before (-before +now):\n%s", diff)
		}
		ld(in, "audit pinned").want(t, 0, "32 trained", "0 dead, 0 in flight")
		ld(in, "replay tiny-ld --from encoded --set objective.distance=cosine --as pinned").want(t, 0) // goes on: complete
		ld(in, "replay tiny-ld --exact --as again").want(t, 0, "exact: policy 2 of again")
	}
}

// TestSweep: every combination is a replay; killed, the same command runs what is left.
func TestSweep(t *testing.T) {
	dir := finishedCopy(t)
	args := []string{
		"sweep", "tiny-ld", "--set", "objective.beta=0.05,0.2", "--set", "training.epochs=1,10", "--set", "optimizer.lr=2e-4", "--dir", dir,
	}
	ldalign(t, append(args, "--dry-run")...).want(t, 0, "tiny-ld-beta-0_05-epochs-10", "objective.beta=0.2 training.epochs=1 optimizer.lr=2e-4",
		"stages that run: evaluator, trainer", "remaining training: about")
	dry := lines[struct {
		Run          string
		Pairs, Steps int
		Done         bool
	}](t, ldalign(t, append(args, "--dry-run", "--json")...))
	if len(dry) != 4 || dry[3].Run != "tiny-ld-beta-0_2-epochs-10" || dry[3].Pairs != 32 || dry[3].Steps != 20 || dry[0].Done {
		t.Errorf("--dry-run --json: %+v", dry)
	}
	p := start(t, command(args...))
	second := filepath.Join(dir, "runs", dry[1].Run, "checkpoints", "*.json")
	if !p.eventually(t, "the second replay", func() bool { found, _ := filepath.Glob(second); return len(found) > 0 }) {
		t.Fatalf("it ended:\n%s", p.stderr.String())
	}
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.wait(t)
	done := lines[struct{ Done bool }](t, ldalign(t, append(args, "--dry-run", "--json")...))
	if !done[0].Done { // the second one has begun
		t.Errorf("killed in the second of four replays, done are %v", done)
	}
	ldalign(t, append(args, "--parallel", "2")...).want(t, 0, "| tiny-ld-beta-0_05-epochs-1 ", " 0.05 |", "comparison:")
	// alone, one of them gives the same weights
	ldalign(t, "replay", "tiny-ld", "--set", "objective.beta=0.05", "--set", "training.epochs=10", "--set", "optimizer.lr=2e-4",
		"--as", "alone", "--dir", dir).want(t, 0)
	attached(t, dir, func(n *node) {
		if n.weights(t, "alone", 1) != n.weights(t, "tiny-ld-beta-0_05-epochs-10", 1) {
			t.Error("a replay has other weights alone than in a sweep that was killed")
		}
		seen := map[string]bool{}
		for _, run := range dry {
			seen[n.weights(t, run.Run, 1)] = true
		}
		if len(seen) != 4 {
			t.Errorf("four combinations have %d different weights", len(seen))
		}
	})

	rows := lines[struct {
		Run      string
		Lineage  string
		Settings []struct{ Key, Value string }
		Scores   []struct{ Iteration int }
		Training []struct{ Name string }
	}](t, ldalign(t, "compare", "tiny-ld", dry[0].Run, dry[3].Run, "--json", "--dir", dir))
	if len(rows) != 3 || len(rows[0].Settings) != 3 || rows[0].Settings[0].Key != "objective.beta" || rows[2].Settings[0].Value != "0.2" ||
		len(rows[0].Scores) != 3 || len(rows[1].Scores) != 1 || len(rows[1].Training) != 5 || rows[1].Lineage == "" {
		t.Errorf("compare --json: %+v", rows)
	}
	ldalign(t, "compare", "tiny-ld", dry[0].Run, "--dir", dir).want(t, 0, "objective.beta", "mean distance", "margin")
	page, err := os.ReadFile(filepath.Join(dir, "compare", "tiny-ld", "index.html"))
	if err != nil || !strings.Contains(string(page), "<svg") || !strings.Contains(string(page), "replay of run tiny-ld") {
		t.Errorf("the page: %v", err)
	}

	for _, c := range []struct{ args, says string }{
		{"--set objective.beta=0.5", "no --set has several values"},
		{"--set objective.beta=0.1,0.1", "two combinations would be named tiny-ld-beta-0_1"},
		{"--set objective.beta=0.1,0.2 --set objective.beta=0.3", "given twice"},
		{"--set objective.beta=0.1,many", "expected a number"},
		{"--set generation.top_p=0.5,1", "--from prompts"},
		{"--set compute.threads=1,2", "one tensor engine"},
		{"--set objective.beta=0.1,0.2 --parallel 0", "at least 1"},
	} {
		ldalign(t, append([]string{"sweep", "tiny-ld", "--dir", dir}, strings.Fields(c.args)...)...).want(t, exitUsage, c.says)
	}
}
