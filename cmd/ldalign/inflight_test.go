package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ldalign/ldalign/ops/pipeline"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
)

// bounded are the flags of a run of testdata/streaming.yaml with one iteration of 400 pairs, of which no more than 16 may be
// ahead of the trainer.
func bounded() []string {
	return []string{"--set", "iterations=1", "--set", "data.limit=400", "--set", "streams.max_in_flight=16"}
}

// ahead goes through the log of a run of one iteration: whenever a prompt was stored, how many there were beyond those that
// the trainer had said to have taken. It fails when that was ever more than most, and returns how many prompts there are and
// how many are taken.
func (n *node) ahead(t *testing.T, run string, most int) (prompts, taken int) {
	t.Helper()
	type said struct {
		at    time.Time
		taken int
	}
	var all []said
	read := func(kind schemas.Kind, f func(streams.Received)) {
		t.Helper()
		err := n.Streams.Read(t.Context(), kind, run, 0, 0, func(r streams.Received) error {
			f(r)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var stored []streams.Received
	read(schemas.Prompts, func(r streams.Received) { stored = append(stored, r) })
	read(schemas.Control, func(r streams.Received) {
		if c := r.Message.(*events.Control); c.GetKind() == events.ControlTrainerProgress {
			taken = max(taken, int(c.GetTotal()))
			all = append(all, said{r.Time, taken})
		}
	})
	for k, r := range stored {
		before := 0
		for _, s := range all {
			if s.at.Before(r.Time) {
				before = s.taken
			}
		}
		if k+1 > before+most {
			t.Errorf("when prompt %d was stored the trainer had taken %d", k+1, before)
		}
	}
	return len(stored), taken
}

// held tells that prompter and generators rest, with the bound published beyond what is taken, in the middle of the
// iteration. It checks the bound on the way.
func (n *node) held(t *testing.T, spec schemas.Spec) bool {
	t.Helper()
	l, err := n.Liveness(t.Context(), spec, pipeline.Default().Stages())
	if err != nil || !pressed(l) {
		return false
	}
	prompts, taken := n.ahead(t, spec.Run, 16)
	if prompts != taken+16 {
		return false // the trainer has just told of more
	}
	t.Logf("%d prompts, %d taken, waiting for: %s", prompts, taken, l.Because)
	if prompts >= 400 {
		t.Errorf("all %d prompts are published", prompts)
	}
	return true
}

// finishedBounded checks a finished run of the flags bounded.
func (n *node) finishedBounded(t *testing.T, run string) {
	t.Helper()
	n.eachStepOnce(t, run, 2, 400)
	if prompts, taken := n.ahead(t, run, 16); prompts != 400 || taken != 400 {
		t.Errorf("%d prompts, %d taken, want 400 of both", prompts, taken)
	}
}

// pressed tells that the generators of a run wait for a later stage, and that the prompter says itself that it waits for the
// trainer: what is last known of it may be of the moment before.
func pressed(l runs.Liveness) bool {
	pressed := map[string]bool{}
	for _, s := range l.Stages {
		for _, w := range s.Workers {
			pressed[s.Stage] = w.State == streams.StateBackPressure &&
				(s.Stage != "prompter" || strings.Contains(w.Detail, "streams.max_in_flight"))
		}
	}
	return pressed["prompter"] && pressed["generator"]
}

// A trainer that rests has the bound before it and no more; prompter and generators say why they rest. Killed before its
// first step and in the middle, and let go, the run trains every pair once an epoch, and its log was bounded at every moment.
func TestTrainerHeld(t *testing.T) {
	const file, run = "testdata/streaming.yaml", "streaming"
	dir := t.TempDir()
	ld := func(args ...string) output { return ldalign(t, append(args, "--dir", dir)...) }
	up := append([]string{"up", file, "--dir", dir}, bounded()...)
	for life := range 3 {
		p := start(t, command(up...))
		await := func(what string, done func() bool) {
			t.Helper()
			if !p.eventually(t, what, done) {
				t.Fatalf("it ended:\n%s", p.stderr.String())
			}
		}
		await("the server", func() bool {
			data, err := os.ReadFile(filepath.Join(dir, "nats", "server.json"))
			return err == nil && strings.Contains(string(data), fmt.Sprintf(`"pid":%d,`, p.Process.Pid))
		})
		if life == 0 {
			await("the pause", func() bool { return ld("pause", run, "--stage", "trainer").code == 0 })
		}
		attached(t, dir, func(n *node) {
			specs, err := runs.Specs(t.Context(), n.Session, []string{run})
			if err != nil {
				t.Fatal(err)
			}
			await("the others to rest", func() bool { return n.held(t, specs[0]) })
			ld("status", run).want(t, 0, "back-pressure", "streams.max_in_flight is 16", "the run waits for: trainer is paused")
			if life != 1 {
				return
			}
			if err := n.Streams.Resume(t.Context(), run, "trainer"); err != nil {
				t.Fatal(err)
			}
			await("some steps", func() bool {
				_, taken := n.ahead(t, run, 16)
				return taken >= 16
			})
			if err := n.Streams.Pause(t.Context(), run, "trainer", "test"); err != nil {
				t.Fatal(err)
			}
			await("the others to rest again", func() bool { return n.held(t, specs[0]) })
		})
		if life < 2 {
			if err := p.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			<-p.done
			continue
		}
		ld("resume", run, "--stage", "trainer").want(t, 0)
		if code := p.wait(t); code != 0 {
			t.Fatalf("it ended with %d:\n%s", code, p.stderr.String())
		}
	}
	ld("audit", run).want(t, 0, "0 dead, 0 in flight")
	attached(t, dir, func(n *node) { n.finishedBounded(t, run) })
	ld("replay", run, "--from", "pairs", "--exact", "--as", "again").want(t, 0, "exact: policy 1 of again")
}
