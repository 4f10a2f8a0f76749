package main

import (
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/trainer/metrics"
)

// undisturbed is the outcome of tiny.yaml when nothing happens to it.
func undisturbed(t *testing.T) outcome {
	t.Helper()
	dir, _ := finished(t)
	want := outcomeOf(t, dir, "tiny-sft", "tiny-ld")
	if len(want.Checkpoints) != 6 || len(want.Results) != 3 || want.Pairs["tiny-ld 0"] != 32 || want.Pairs["tiny-ld 1"] != 32 {
		t.Fatalf("the undisturbed run is not whole: %+v", want)
	}
	return want
}

// sameAs compares the outcome in a folder with the undisturbed one, and has audit balance it.
func sameAs(t *testing.T, want outcome, dir string) {
	t.Helper()
	if diff := cmp.Diff(want, outcomeOf(t, dir, "tiny-sft", "tiny-ld")); diff != "" {
		t.Errorf("not what the undisturbed run gave (-undisturbed +this):\n%s", diff)
	}
	for _, run := range []string{"tiny-sft", "tiny-ld"} {
		ldalign(t, "audit", run, "--dir", dir).want(t, 0, "0 dead, 0 in flight")
	}
}

func TestSameSpecSameBits(t *testing.T) {
	want := undisturbed(t)
	dir := t.TempDir()
	ldalign(t, "up", tiny, "--dir", dir).want(t, 0, "LD-Align 1")
	sameAs(t, want, dir)
	before := manifests(dir)
	ldalign(t, "up", tiny, "--dir", dir).want(t, 0, "LD-Align 1")
	if after := manifests(dir); after != before {
		t.Errorf("a finished run, started again, has %d checkpoints, had %d", after, before)
	}
}

// killed runs a spec whose process is killed at moments that are spread over all phases of the run and random within
// them, and started again by the same command. An undisturbed run took so long and left so many checkpoints. It gives the
// folder of the run, which is to be finished.
func killed(t *testing.T, spec string, kills, all int, took time.Duration) string {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d, undisturbed %v, %d checkpoints", seed, took, all)
	dir := t.TempDir()
	killed := 0
	for k := range kills {
		p := start(t, command("up", spec, "--dir", dir))
		due := k * all / (kills - 1)
		if !p.eventually(t, "the next kill", func() bool { return manifests(dir) >= due }) {
			break // it failed: the last start says how
		}
		if k < kills-1 { // after the last checkpoint there is little left to do
			// a random moment, and no later than the next kill's first: the process may be faster than the undisturbed one was
			over, next := time.Now().Add(time.Duration(random.Int64N(int64(took)/int64(kills)))), (k+1)*all/(kills-1)
			p.eventually(t, "the moment", func() bool { return time.Now().After(over) || manifests(dir) >= next })
		}
		if err := p.Process.Kill(); err == nil {
			killed++
		}
		<-p.done
	}
	t.Logf("killed %d times; %d of %d checkpoints were there at the last", killed, manifests(dir), all)
	if killed < kills-1 { // the last one may come too late
		t.Errorf("the run ended after %d kills", killed)
	}
	return dir
}

func TestKilledAtAnyMoment(t *testing.T) {
	want := undisturbed(t)
	shared, took := finished(t)
	dir := killed(t, tiny, 10, manifests(shared), took)
	ldalign(t, "up", tiny, "--dir", dir).want(t, 0, "LD-Align 1")
	sameAs(t, want, dir)
}

var kills = flag.Int("kills", 5, "how often TestTrainerKilled kills its process")

// Accumulation, epochs, mixing, partial batches, adapters and states after each step, with a kill -9 every now and then. The
// checkpoints are those of an undisturbed run, and name the pairs of each step: none was trained twice or left out.
func TestTrainerKilled(t *testing.T) {
	const spec = "testdata/chaos.yaml"
	runs := []string{"chaos-full", "chaos-lora"}
	quiet := t.TempDir()
	began := time.Now()
	ldalign(t, "up", spec, "--dir", quiet).want(t, 0)
	took := time.Since(began)
	want := outcomeOf(t, quiet, runs...)
	if len(want.Checkpoints) != 7 {
		t.Fatalf("the undisturbed run is not whole: %+v", want)
	}
	dir := killed(t, spec, *kills, manifests(quiet), took)
	ldalign(t, "up", spec, "--dir", dir).want(t, 0)
	if diff := cmp.Diff(want, outcomeOf(t, dir, runs...)); diff != "" {
		t.Errorf("not what the undisturbed run gave (-undisturbed +this):\n%s", diff)
	}
	for _, run := range runs {
		ldalign(t, "audit", run, "--dir", dir).want(t, 0, "0 dead, 0 in flight")
		attached(t, dir, func(n *node) { n.eachStepOnce(t, run, 2, 40, 80) })
		if diff := cmp.Diff(figures(t, quiet, run), figures(t, dir, run)); diff != "" {
			t.Errorf("run %s: metrics (-undisturbed +killed):\n%s", run, diff)
		}
	}
}

// figures are the lines of a run's metrics, without the clock readings, which stand at their ends.
func figures(t *testing.T, dir, run string) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "runs", run, metrics.File))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(data)) {
		line, _, _ = strings.Cut(line, `,"tokens/s"`)
		out = append(out, strings.TrimSuffix(line, "}\n"))
	}
	return out
}

// A run that trains while pairs arrive, killed now and then, ends as a trainer does that reads its log from the beginning,
// undisturbed.
func TestStreamingKilled(t *testing.T) {
	const spec, run = "testdata/streaming.yaml", "streaming"
	quiet := t.TempDir()
	began := time.Now()
	ldalign(t, "up", spec, "--dir", quiet).want(t, 0)
	dir := killed(t, spec, *kills, manifests(quiet), time.Since(began))
	ldalign(t, "up", spec, "--dir", dir).want(t, 0)
	ldalign(t, "audit", run, "--dir", dir).want(t, 0, "0 dead, 0 in flight")
	attached(t, dir, func(n *node) { n.eachStepOnce(t, run, 2, 60, 60) })
	want := outcomeOf(t, dir, run)
	if len(want.Checkpoints) != 3 {
		t.Fatalf("the run is not whole: %+v", want)
	}
	ldalign(t, "replay", run, "--from", "pairs", "--exact", "--as", "again", "--dir", dir).
		want(t, 0, "exact: policy 1 of again", "exact: policy 2 of again")
	if err := os.RemoveAll(filepath.Join(dir, "runs", run)); err != nil { // the checkpoints; the log stays
		t.Fatal(err)
	}
	ldalign(t, "up", spec, "--dir", dir).want(t, exitFailed, "the checkpoint store has nothing of run streaming")
}

// eachStepOnce checks the pairs of each step of a run's policies: each epoch has all, as many as an iteration has, each of
// them once.
func (n *node) eachStepOnce(t *testing.T, run string, epochs int, pairs ...int) {
	t.Helper()
	all, err := n.Checkpoints.List(t.Context(), run)
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, m := range all {
		if m.Kind != checkpoints.Policy || m.Iteration == 0 {
			continue
		}
		checked++
		b, err := n.Checkpoints.Batches(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		trained := 0
		for _, s := range b.Steps {
			trained += len(s.Pairs)
		}
		if want := pairs[m.Iteration-1]; len(b.Pairs) != want || trained != epochs*want {
			t.Errorf("policy %d of %s: %d pairs of %d were trained %d times, want %d times in %d epochs", m.Iteration, run,
				len(b.Pairs), want, trained, epochs*want, epochs)
		}
	}
	if checked != len(pairs) {
		t.Errorf("%s has %d policies that were trained, want %d", run, checked, len(pairs))
	}
}

func TestInterrupted(t *testing.T) {
	want := undisturbed(t)
	dir := t.TempDir()
	for _, due := range []int{1, 5, 7} { // while fine-tuning, before the guide, in the first iteration
		p := start(t, command("up", tiny, "--dir", dir))
		if !p.eventually(t, "a checkpoint", func() bool { return manifests(dir) >= due }) {
			t.Fatalf("it ended by itself:\n%s", p.stderr.String())
		}
		if err := p.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		code := p.wait(t)
		output{code, p.stdout.String(), p.stderr.String()}.want(t, exitInterrupted, "run the same command to continue")
	}
	ldalign(t, "up", tiny, "--dir", dir).want(t, 0, "LD-Align 1")
	sameAs(t, want, dir)
}

func TestWeightOneIsSPIN(t *testing.T) {
	dir := t.TempDir()
	ldalign(t, "up", "testdata/spin.yaml", "--dir", dir).want(t, 0)
	got := outcomeOf(t, dir, "one", "spin").Weights
	for _, i := range []string{"0", "1", "2"} {
		one, spin := got["one policy "+i+" model.safetensors"], got["spin policy "+i+" model.safetensors"]
		if one == "" || one != spin {
			t.Errorf("policy %s: LD-Align with w = 1 has weights %.12s, SPIN %.12s", i, one, spin)
		}
	}
	if got["spin policy 0 model.safetensors"] == got["spin policy 2 model.safetensors"] {
		t.Error("two iterations changed nothing")
	}
}
