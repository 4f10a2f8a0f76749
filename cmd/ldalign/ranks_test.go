package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const ranksSpec = "testdata/ranks.yaml"

// children are the processes that a process has started.
func (p *process) children(t *testing.T) []int {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.Process.Pid))
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

// TestTrainerRanks: a run whose steps two processes share is killed a rank, is interrupted, and goes on each time by the same
// command. It ends with the weights of one that was left alone.
func TestTrainerRanks(t *testing.T) {
	quiet, dir := t.TempDir(), t.TempDir()
	p := start(t, command("up", ranksSpec, "--dir", quiet))
	output{p.wait(t), p.stdout.String(), p.stderr.String()}.want(t, 0)
	want := outcomeOf(t, quiet, "ranks")

	p = start(t, command("up", ranksSpec, "--dir", dir))
	if !p.eventually(t, "a state", func() bool { return manifests(dir) >= 3 }) {
		t.Fatalf("it ended by itself:\n%s", p.stderr.String())
	}
	ranks := p.children(t)
	if len(ranks) != 1 {
		t.Fatalf("the trainer has started %d processes, want 1", len(ranks))
	}
	if err := syscall.Kill(ranks[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	output{p.wait(t), p.stdout.String(), p.stderr.String()}.want(t, exitFailed, "trainer processes has died", "by the same command")

	p = start(t, command("up", ranksSpec, "--dir", dir))
	due := manifests(dir) + 2
	if !p.eventually(t, "more states", func() bool { return manifests(dir) >= due }) {
		t.Fatalf("it ended by itself:\n%s", p.stderr.String())
	}
	if err := p.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	output{p.wait(t), p.stdout.String(), p.stderr.String()}.want(t, exitInterrupted, "goes on with the same command")

	p = start(t, command("up", ranksSpec, "--dir", dir))
	output{p.wait(t), p.stdout.String(), p.stderr.String()}.want(t, 0)
	if got := outcomeOf(t, dir, "ranks"); fmt.Sprint(got) != fmt.Sprint(want) {
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
	ranks := p.children(t)
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
