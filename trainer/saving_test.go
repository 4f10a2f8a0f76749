package trainer_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer"
	"github.com/ldalign/ldalign/trainer/loop"
)

// damage does something to the blob of a checkpoint's file.
func (w *world) damage(m checkpoints.Manifest, name string, do func(path string) error) {
	w.t.Helper()
	path := filepath.Join(w.root, "runs", m.Run, "blobs", w.file(m, name).SHA256)
	if err := os.Chmod(path, 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := do(path); err != nil {
		w.t.Fatal(err)
	}
	w.reopen()
}

func flip(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	data[len(data)/2] ^= 1
	return os.WriteFile(path, data, 0o600)
}

func truncate(path string) error { return os.Truncate(path, 9) }

// logged makes the world's log a buffer.
func (w *world) logged() *logBuffer {
	out := &logBuffer{}
	w.log = zerolog.New(out).Level(zerolog.WarnLevel)
	return out
}

type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// TestDamagedStateIsPassedOver: with a warning that names the file the run goes on from the state before it, or from the
// policy when none is left, and arrives at the bits of an undisturbed run.
func TestDamagedStateIsPassedOver(t *testing.T) {
	w := newWorld(t)
	change := func(s *schemas.Spec) { s.Objective.Kind, s.Iterations, s.Training.CheckpointEvery = "sft", 1, 1 }
	w.finish(testSpec("undisturbed", change))
	want := w.results("undisturbed")
	for _, test := range []struct {
		run    string
		damage func(newest, before checkpoints.Manifest)
		step   int // from which it goes on
	}{
		{"flipped", func(newest, _ checkpoints.Manifest) { w.damage(newest, loop.OptimizerFile, flip) }, 1},
		{"truncated", func(newest, _ checkpoints.Manifest) { w.damage(newest, checkpoints.WeightsFile, truncate) }, 1},
		{"missing", func(newest, _ checkpoints.Manifest) { w.damage(newest, checkpoints.BatchesFile, os.Remove) }, 1},
		{"both", func(newest, before checkpoints.Manifest) {
			w.damage(newest, checkpoints.WeightsFile, os.Remove)
			w.damage(before, checkpoints.WeightsFile, flip)
		}, 0},
	} {
		t.Run(test.run, func(t *testing.T) {
			spec := testSpec(test.run, change)
			ctx, meter := stopAt(t.Context(), "train sft 0", 2)
			if err := w.work(ctx, spec, meter); !errors.Is(err, trainer.ErrInterrupted) {
				t.Fatal(err)
			}
			var states []checkpoints.Manifest
			all, err := w.checkpoints.List(t.Context(), spec.Run)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range all {
				if m.Kind == checkpoints.State {
					states = append(states, m)
				}
			}
			if len(states) != 2 {
				t.Fatalf("%d states, want 2", len(states))
			}
			test.damage(states[1], states[0])
			log, from := w.logged(), -1
			err = w.work(t.Context(), spec, func(work string, done, _ int) {
				if work == "train sft 0" && from < 0 {
					from = done
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if from != test.step {
				t.Errorf("it went on from step %d, want %d", from, test.step)
			}
			if text := log.String(); !strings.Contains(text, states[1].Key) || !strings.Contains(text, "skipping a damaged state") ||
				!strings.Contains(text, "/blobs/") {
				t.Errorf("the log does not name what is damaged:\n%s", text)
			}
			if diff := cmp.Diff(want, w.results(test.run)); diff != "" {
				t.Errorf("(-undisturbed +damaged):\n%s", diff)
			}
		})
	}
}

// TestDamagedPolicyIsRefused: nothing is trained from it; the error names file and blob, and says what to do.
func TestDamagedPolicyIsRefused(t *testing.T) {
	w := newWorld(t)
	spec := testSpec("policy", func(s *schemas.Spec) { s.Objective.Kind = "sft" })
	ctx, meter := stopAt(t.Context(), "train sft 1", 1)
	if err := w.work(ctx, spec, meter); !errors.Is(err, trainer.ErrInterrupted) {
		t.Fatal(err)
	}
	policy := w.policy(spec.Run, 1)
	w.damage(policy, checkpoints.WeightsFile, flip)
	err := w.trainer(spec, silent).Run(t.Context())
	if !errors.Is(err, checkpoints.ErrCorrupt) {
		t.Fatalf("got %v, want ErrCorrupt", err)
	}
	for _, says := range []string{checkpoints.WeightsFile, w.file(policy, checkpoints.WeightsFile).SHA256, "replace it with a copy of the file"} {
		if !strings.Contains(err.Error(), says) {
			t.Errorf("%v does not say %q", err, says)
		}
	}
}

// TestOtherMachineIsWarnedOf: a state from another processor, number of threads or libtorch is gone on from, and the log says
// what differs; one from this machine says nothing.
func TestOtherMachineIsWarnedOf(t *testing.T) {
	w := newWorld(t)
	spec := testSpec("moved", func(s *schemas.Spec) { s.Objective.Kind, s.Iterations = "sft", 1 })
	for step := range 2 {
		log := w.logged()
		ctx, meter := stopAt(t.Context(), "train sft 0", step+1)
		if err := w.work(ctx, spec, meter); !errors.Is(err, trainer.ErrInterrupted) {
			t.Fatal(err)
		}
		if strings.Contains(log.String(), "another libtorch") {
			t.Errorf("the same machine is taken for another:\n%s", log)
		}
	}
	version, err := tensor.Version()
	if err != nil {
		t.Fatal(err)
	}
	state := w.latest(spec.Run, checkpoints.State)
	var machine checkpoints.Machine
	for _, m := range []checkpoints.Manifest{w.policy(spec.Run, 0), state} {
		var ok bool
		machine, ok, err = w.checkpoints.Machine(t.Context(), m)
		if err != nil || !ok || machine.Threads != 1 || machine.Libtorch != version || machine.Device != "cpu" {
			t.Fatalf("%s: noted %+v, %v, %v", m.Key, machine, ok, err)
		}
	}
	machine.CPU, machine.Libtorch = "Z80", "1.13.1"
	data, err := json.Marshal(machine)
	if err != nil {
		t.Fatal(err)
	}
	note := strings.Replace(state.Key, "/checkpoints/", "/machines/", 1)
	if err := w.store.Put(t.Context(), note, bytes.NewReader(data), int64(len(data))); err != nil {
		t.Fatal(err)
	}
	log := w.logged()
	spec.Compute.Threads = 2
	if err := w.work(t.Context(), spec, silent); err != nil {
		t.Fatal(err)
	}
	for _, says := range []string{
		state.Key, `threads \"1\", here \"2\"`, `processor \"Z80\"`,
		`libtorch \"1.13.1\", here \"` + version + `\"`, "another libtorch: the run continues",
	} {
		if !strings.Contains(log.String(), says) {
			t.Errorf("the log does not say %s:\n%s", says, log)
		}
	}
}

// TestStoreAway: a trainer waits for a store that does not answer, says so, and arrives at the bits of an undisturbed run. That
// old states cannot be removed ends nothing either.
func TestStoreAway(t *testing.T) {
	w := newWorld(t)
	change := func(s *schemas.Spec) { s.Objective.Kind, s.Iterations, s.Training.CheckpointEvery = "sft", 1, 1 }
	w.finish(testSpec("undisturbed", change))
	log := w.logged()
	w.reopen()
	w.store.keep.Store(true)
	waited, back := 0, 0
	err := w.work(t.Context(), testSpec("disturbed", change), func(work string, done, total int) {
		switch {
		case work == "train sft 0" && done == 1:
			w.store.away.Store(true)
		case work == "wait for the checkpoint store" && done < total:
			if waited++; waited == 2 {
				w.store.away.Store(false)
			}
		case work == "wait for the checkpoint store":
			back++
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(w.results("undisturbed"), w.results("disturbed")); diff != "" {
		t.Errorf("not what an undisturbed run gives (-undisturbed +disturbed):\n%s", diff)
	}
	if waited < 2 || back != 1 {
		t.Errorf("the trainer said %d times that it waits and %d times that it went on, want 2 and 1", waited, back)
	}
	for _, want := range []string{"waiting for the checkpoint store", "the files of old states could not be removed"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not say %q:\n%s", want, log.String())
		}
	}
}

// TestStoreAwayAtTheEnd: a trainer that is told to end while the store is away ends, and says that the state is not saved.
func TestStoreAwayAtTheEnd(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := w.work(ctx, testSpec("r", func(s *schemas.Spec) {
		s.Objective.Kind, s.Iterations, s.Training.CheckpointEvery = "sft", 1, 1
	}), func(work string, done, _ int) {
		switch {
		case work == "train sft 0" && done == 1:
			w.store.away.Store(true)
		case work == "wait for the checkpoint store":
			cancel()
		}
	})
	if !errors.Is(err, checkpoints.ErrUnavailable) || errors.Is(err, trainer.ErrInterrupted) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
}
