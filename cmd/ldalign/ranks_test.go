package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ldalign/ldalign/models/tensor"
)

const ranksSpec = "testdata/ranks.yaml"

// children are the processes that a process has started.
func children(t *testing.T, pid int) []int {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue // its thread has ended
		}
		for _, field := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, pid)
		}
	}
	return out
}

// TestTrainerRanks: two trainer processes share the steps of a run. After one of them is killed, and after an interrupt, the same
// command continues. The run ends with the weights of an undisturbed one.
func TestTrainerRanks(t *testing.T) {
	quiet, dir := t.TempDir(), t.TempDir()
	p := start(t, command("up", ranksSpec, "--dir", quiet))
	output{p.wait(t), p.stdout.String(), p.stderr.String()}.want(t, 0)
	if said := p.stderr.String(); strings.Contains(said, "broken") || strings.Contains(said, "did not end as it should") {
		t.Errorf("the others did not end in peace:\n%s", said)
	}
	want := outcomeOf(t, quiet, "ranks")

	p = start(t, command("up", ranksSpec, "--dir", dir))
	if !p.eventually(t, "a state", func() bool { return manifests(dir) >= 3 }) {
		t.Fatalf("it ended by itself:\n%s", p.stderr.String())
	}
	ranks := children(t, p.Process.Pid)
	if len(ranks) != 1 {
		t.Fatalf("the trainer has started %d processes, want 1", len(ranks))
	}
	if err := syscall.Kill(ranks[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	output{p.wait(t), p.stdout.String(), p.stderr.String()}.want(t, exitFailed,
		"trainer process 1 (pid "+strconv.Itoa(ranks[0])+") has ended: signal: killed", "run the same command again")

	p = start(t, command("up", ranksSpec, "--dir", dir))
	due := manifests(dir) + 2
	if !p.eventually(t, "more states", func() bool { return manifests(dir) >= due }) {
		t.Fatalf("it ended by itself:\n%s", p.stderr.String())
	}
	if err := p.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	output{p.wait(t), p.stdout.String(), p.stderr.String()}.want(t, exitInterrupted, "run the same command to continue")

	p = start(t, command("up", ranksSpec, "--dir", dir))
	output{p.wait(t), p.stdout.String(), p.stderr.String()}.want(t, 0)
	if got := outcomeOf(t, dir, "ranks"); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("not what the undisturbed run gave: %+v, want %+v", got, want)
	}
}

// TestRankThatIsStopped: rank 0 kills a process that gives no sign of life, and says so. The run then continues, and ends with the
// weights of an undisturbed one.
func TestRankThatIsStopped(t *testing.T) {
	quiet, dir := t.TempDir(), t.TempDir()
	t.Setenv(programVar, "1") // what this process starts is ldalign
	ldalign(t, "up", ranksSpec, "--dir", quiet).want(t, 0)
	var stderr buffer
	e := testEnv(t, dir, &stderr)
	e.patience = 3 * time.Second
	ended := make(chan error, 1)
	go func() { ended <- (&upCommand{Spec: ranksSpec}).Run(t.Context(), e) }()
	late := time.After(limit)
	for manifests(dir) < 3 {
		select {
		case err := <-ended:
			t.Fatalf("it ended by itself: %v\n%s", err, stderr.String())
		case <-late:
			t.Fatalf("waited %v for a state\n%s", limit, stderr.String())
		case <-time.After(2 * time.Millisecond):
		}
	}
	ranks := children(t, os.Getpid())
	if len(ranks) != 1 {
		t.Fatalf("the trainer has started %d processes, want 1", len(ranks))
	}
	if err := syscall.Kill(ranks[0], syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		said := "trainer process 1 (pid " + strconv.Itoa(ranks[0]) + ") gave no sign of life for 3s and was killed"
		if !errors.Is(err, tensor.ErrGroup) || !strings.Contains(err.Error(), said) ||
			!strings.Contains(err.Error(), "run the same command again") {
			t.Fatalf("got %v, want ErrGroup, %q, and what to do", err, said)
		}
	case <-late:
		_ = syscall.Kill(ranks[0], syscall.SIGKILL) // the test has failed already
		t.Fatalf("a stopped process was not given up within %v", limit)
	}
	ldalign(t, "up", ranksSpec, "--dir", dir).want(t, 0)
	if got, want := outcomeOf(t, dir, "ranks"), outcomeOf(t, quiet, "ranks"); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("not what the undisturbed run gave: %+v, want %+v", got, want)
	}
}

// TestNoOrphanRanks: rank 0 is killed, and the process that it had started ends by itself.
func TestNoOrphanRanks(t *testing.T) {
	dir := t.TempDir()
	p := start(t, command("up", ranksSpec, "--dir", dir))
	if !p.eventually(t, "a state", func() bool { return manifests(dir) >= 3 }) {
		t.Fatalf("it ended by itself:\n%s", p.stderr.String())
	}
	ranks := children(t, p.Process.Pid)
	if len(ranks) != 1 {
		t.Fatalf("the trainer has started %d processes, want 1", len(ranks))
	}
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for t.Context().Err() == nil && running(ranks[0]) {
		time.Sleep(10 * time.Millisecond) // the test's own deadline bounds it
	}
}

// running tells whether a process is there and no zombie.
func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}
