package trainer_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer/metrics"
)

// lines are those of a run's metrics.jsonl, without the clock readings that each but a lost one must have.
func (w *world) lines(run string) []string {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(w.metrics, run, metrics.File))
	if err != nil {
		w.t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(data)) {
		var clock struct {
			Speed *float64 `json:"tokens/s"`
		}
		if err := json.Unmarshal([]byte(line), &clock); err != nil {
			w.t.Fatalf("%s: %v", line, err)
		}
		if clock.Speed == nil || !(*clock.Speed > 0) {
			w.t.Errorf("no speed in %s", line)
		}
		line, _, _ = strings.Cut(line, `,"tokens/s"`)
		out = append(out, line)
	}
	return out
}

// TestCurvesOfAKilledRun: the metrics of a run that was killed between two saved states, and went on from the older one,
// are those of a run that was left alone: no step twice, none missing. So it is on the results stream.
func TestCurvesOfAKilledRun(t *testing.T) {
	w := newWorld(t)
	often := func(s *schemas.Spec) { s.Training.Epochs, s.Training.CheckpointEvery = 2, 2 }
	w.finish(testSpec("whole", often))
	spec := testSpec("killed", often)
	for _, work := range []string{"train guide", "train ldalign 0", "train ldalign 1"} {
		ctx, stop := context.WithCancel(t.Context())
		err := w.work(ctx, spec, func(at string, done, _ int) {
			if at == work && done == 3 { // a state was saved after step 2
				w.store.refuse.Store(true)
				stop()
			}
		})
		stop()
		w.store.refuse.Store(false)
		if !errors.Is(err, errRefused) {
			t.Fatalf("%s: %v", work, err)
		}
	}
	w.finish(spec)
	want, got := w.lines("whole"), w.lines("killed")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-whole +killed):\n%s", diff)
	}
	if len(want) != 3+2*6 {
		t.Errorf("%d lines, want those of 3 steps of the guide and 2 times 6 of the policy", len(want))
	}
	for _, name := range []string{
		"epoch", "loss", "grad_norm", "learning_rate", "rewards/chosen", "rewards/rejected", "rewards/accuracies",
		"rewards/margins", "logps/chosen", "logps/rejected", "weight", "effective_sample_size", "distance", "kl",
		"response_token_share", "num_tokens",
	} {
		if !strings.Contains(want[len(want)-1], `"`+name+`":`) {
			t.Errorf("no %s in %s", name, want[len(want)-1])
		}
	}
	for _, run := range []string{"whole", "killed"} {
		var steps []string
		err := w.streams.Read(t.Context(), schemas.Results, run, streams.AllIterations, 0, func(r streams.Received) error {
			if result := r.Message.(*events.Result); result.GetStep() > 0 && len(result.GetMetrics()) > 3 {
				steps = append(steps, r.Message.ID())
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(steps)
		if len(slices.Compact(slices.Clone(steps))) != len(want) || len(steps) != len(want) {
			t.Errorf("run %s has these steps on the results stream: %v", run, steps)
		}
	}
}

// TestCurvesAreNotTheTraining: a folder that cannot be written costs the metrics, not the run.
func TestCurvesAreNotTheTraining(t *testing.T) {
	w := newWorld(t)
	writeFile(t, filepath.Join(w.metrics, "file"), "")
	w.metrics = filepath.Join(w.metrics, "file")
	w.finish(testSpec("unseen", func(s *schemas.Spec) { s.Objective.Kind, s.Iterations = "sft", 1 }))
	if got := len(w.records(w.policy("unseen", 1))); got != 3 {
		t.Errorf("%d steps, want 3", got)
	}
}
