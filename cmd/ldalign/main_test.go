package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/ops/pipeline"
	"github.com/ldalign/ldalign/ops/progress"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/clustertest"
)

// programVar makes a process of this test binary be ldalign. The tests run it as users do, and may kill it.
const programVar = "LDALIGN_TEST_PROGRAM"

// fileLimitVar is the size in bytes that no file of that process may grow past.
const fileLimitVar = "LDALIGN_TEST_FILE_LIMIT"

func TestMain(m *testing.M) {
	clustertest.Main()
	switch os.Getenv(programVar) {
	case "":
	case "nothing": // with one stage more
		os.Exit(run(os.Args[1:], os.Stdout, os.Stderr, withNothing(), becomeTensors))
	default:
		limitFiles()
		main()
	}
	os.Exit(testAll(m))
}

// testAll runs the tests without the developer's environment settings, and with folders that finished and controlBuild fill.
func testAll(m *testing.M) int {
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if strings.HasPrefix(name, "LDALIGN_") && name != "LDALIGN_NATIVE" {
			if err := os.Unsetenv(name); err != nil {
				panic(err)
			}
		}
	}
	dir, err := os.MkdirTemp("", "ldalign-test-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	sharedDir, controlDir = filepath.Join(dir, "data"), filepath.Join(dir, "control")
	return m.Run()
}

func limitFiles() {
	text := os.Getenv(fileLimitVar)
	if text == "" {
		return
	}
	size, err := strconv.ParseUint(text, 10, 64)
	if err == nil {
		err = syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: size, Max: size})
	}
	if err != nil {
		panic(err)
	}
}

// limit is the greatest time for which these tests wait. Reaching it is a failure.
const limit = 3 * time.Minute

// process is a running ldalign.
type process struct {
	*exec.Cmd
	stdout, stderr buffer
	done           chan struct{} // closed when it has ended
}

// buffer may be read while the process writes.
type buffer struct {
	mu   sync.Mutex
	data bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.String()
}

// command is ldalign with these arguments as a process of its own, which can be killed.
func command(args ...string) *exec.Cmd {
	c := exec.Command(os.Args[0], args...)
	// the second variable keeps the program from starting itself once more, see becomeTensors
	c.Env = append(os.Environ(), programVar+"=1", "OMP_WAIT_POLICY=PASSIVE")
	return c
}

// start runs a command; it is killed with the test at the latest.
func start(t *testing.T, c *exec.Cmd) *process {
	t.Helper()
	p := &process{Cmd: c, done: make(chan struct{})}
	c.Stdout, c.Stderr = &p.stdout, &p.stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = c.Wait() // the state says how it ended
	}()
	t.Cleanup(func() {
		_ = c.Process.Kill() // it has ended, usually
		<-p.done
	})
	return p
}

// wait gives the exit code.
func (p *process) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(limit):
		t.Fatalf("%v did not end within %v\n%s", p.Args[1:], limit, p.stderr.String())
	}
	if p.ProcessState.Exited() {
		output{p.ProcessState.ExitCode(), p.stdout.String(), p.stderr.String()}.onlyJSON(t, p.Args)
	}
	return p.ProcessState.ExitCode()
}

// output is what a finished ldalign gave.
type output struct {
	code           int
	stdout, stderr string
}

// ldalign runs the program to its end, in this process: starting one takes half a second.
func ldalign(t *testing.T, args ...string) output {
	t.Helper()
	return ldalignOf(t, pipeline.Default(), args...)
}

// ldalignOf is ldalign with other stages.
func ldalignOf(t *testing.T, stages pipeline.Table, args ...string) output {
	t.Helper()
	var stdout, stderr buffer
	code := run(args, &stdout, &stderr, stages, func() error { return nil })
	o := output{code, stdout.String(), stderr.String()}
	o.onlyJSON(t, args)
	return o
}

// onlyJSON checks what --json promises: each line of both outputs is an object, and a failure of the program or its use ends
// with one that says why.
func (o output) onlyJSON(t *testing.T, args []string) {
	t.Helper()
	if !slices.Contains(args, "--json") || slices.Contains(args, "--help") {
		return
	}
	last := map[string]any{}
	for _, line := range strings.Split(o.stdout+o.stderr, "\n") {
		if line == "" {
			continue
		}
		last = map[string]any{}
		if err := json.Unmarshal([]byte(line), &last); err != nil {
			t.Errorf("%s prints a line that is no object: %s", strings.Join(args, " "), line)
		}
	}
	if o.code != 0 && last["error"] == nil {
		t.Errorf("%s ends with exit code %d and the line %v, want an error", strings.Join(args, " "), o.code, last)
	}
}

// want checks the exit code and that stdout and stderr together contain some texts.
func (o output) want(t *testing.T, code int, texts ...string) {
	t.Helper()
	if o.code != code {
		t.Errorf("exit code %d, want %d", o.code, code)
	}
	for _, text := range texts {
		if !strings.Contains(o.stdout+o.stderr, text) {
			t.Errorf("the output does not say %q", text)
		}
	}
	if t.Failed() {
		t.Fatalf("it printed:\n%s\n%s", o.stdout, o.stderr)
	}
}

// lines decodes JSON lines of stdout.
func lines[T any](t *testing.T, o output) []T {
	t.Helper()
	o.want(t, 0)
	var out []T
	decode := json.NewDecoder(strings.NewReader(o.stdout))
	for decode.More() {
		var item T
		if err := decode.Decode(&item); err != nil {
			t.Fatalf("stdout is not JSON lines: %v\n%s", err, o.stdout)
		}
		out = append(out, item)
	}
	return out
}

// eventually waits until done or the process has ended; it reports whether done came first.
func (p *process) eventually(t *testing.T, what string, done func() bool) bool {
	t.Helper()
	poll := time.NewTicker(2 * time.Millisecond)
	defer poll.Stop()
	giveUp := time.After(limit)
	for !done() {
		select {
		case <-poll.C:
		case <-p.done:
			return done()
		case <-giveUp:
			t.Fatalf("waited %v for %s\n%s", limit, what, p.stderr.String())
		}
	}
	return true
}

const tiny = "testdata/tiny.yaml"

var (
	sharedDir  string
	controlDir string // of the control build
	sharedOnce sync.Once
	sharedTook time.Duration
)

// finished is a folder in which tiny.yaml ran to its end undisturbed, and how long that took. Tests only read it.
func finished(t *testing.T) (string, time.Duration) {
	t.Helper()
	sharedOnce.Do(func() {
		began := time.Now()
		ldalign(t, "up", tiny, "--dir", sharedDir).want(t, 0)
		sharedTook = time.Since(began)
	})
	if sharedTook == 0 {
		t.Fatal("the undisturbed run has failed, see the first test")
	}
	return sharedDir, sharedTook
}

// manifests is how many checkpoints of any run are in a data folder.
func manifests(dir string) int {
	found, err := filepath.Glob(filepath.Join(dir, "runs", "*", "checkpoints", "*.json"))
	if err != nil {
		panic(err) // the pattern is constant
	}
	return len(found)
}

// outcome is the part of a run's result that must not depend on which process died when.
type outcome struct {
	// Checkpoints are the digests of policies and guides: of weights, metrics and records, by run, kind and iteration.
	Checkpoints map[string]string
	// Weights are the sha256 of the weights alone.
	Weights map[string]string
	// Results are the evaluations' figures.
	Results map[string]string
	// Pairs is the number of scored pairs of each iteration.
	Pairs map[string]int
}

// outcomeOf reads a data folder that no process uses, and checks that each pair was scored once.
func outcomeOf(t *testing.T, dir string, runs ...string) outcome {
	t.Helper()
	var out outcome
	attached(t, dir, func(n *node) { out = n.outcome(t, runs...) })
	return out
}

// node is a session with what tests ask of it.
type node struct{ *runs.Session }

// attached calls f with a data folder that no process uses.
func attached(t *testing.T, dir string, f func(n *node)) {
	t.Helper()
	e := testEnv(t, dir, t.Output())
	err := e.attached(t.Context(), schemas.ServersSpec{}, func(s *runs.Session) error {
		f(&node{s})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// testEnv is what a verb gets in a test.
func testEnv(t *testing.T, dir string, stderr io.Writer) *env {
	t.Helper()
	display := progress.New(stderr, progress.Options{})
	t.Cleanup(func() {
		if err := display.Close(); err != nil {
			t.Error(err)
		}
	})
	return &env{dir: dir, stdout: t.Output(), stderr: stderr, interrupts: &interrupts{}, display: display, pipeline: pipeline.Default()}
}

func (n *node) outcome(t *testing.T, runs ...string) outcome {
	t.Helper()
	out := outcome{map[string]string{}, map[string]string{}, map[string]string{}, map[string]int{}}
	for _, run := range runs {
		list, err := n.Checkpoints.List(t.Context(), run)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range list {
			if m.Kind == checkpoints.State {
				continue
			}
			key := fmt.Sprintf("%s %s %d", run, m.Kind, m.Iteration)
			if out.Checkpoints[key] != "" {
				t.Errorf("%s was committed twice", key)
			}
			out.Checkpoints[key] = m.Digest
			for _, f := range m.Files {
				if strings.HasSuffix(f.Name, ".safetensors") {
					out.Weights[key+" "+f.Name] = f.SHA256
				}
			}
		}
		results, err := n.Results(t.Context(), run)
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range results {
			figures, err := json.Marshal(r.GetMetrics())
			if err != nil {
				t.Fatal(err)
			}
			out.Results[fmt.Sprintf("%s %d", run, i)] = string(figures) + r.GetDetails()
		}
		n.countPairs(t, run, out.Pairs)
	}
	return out
}

// countPairs checks that every scored pair is in the log once.
func (n *node) countPairs(t *testing.T, run string, count map[string]int) {
	t.Helper()
	seen := map[string]bool{}
	err := n.Streams.Read(t.Context(), schemas.Scored, run, streams.AllIterations, 0, func(r streams.Received) error {
		s, ok := r.Message.(*events.Scored)
		if !ok {
			return errors.New("not a scored pair")
		}
		if seen[s.ID()] {
			t.Errorf("pair %s of run %s is scored twice", s.ID(), run)
		}
		seen[s.ID()] = true
		count[fmt.Sprintf("%s %d", run, s.GetIteration())]++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
