package trainer_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer"
	"github.com/ldalign/ldalign/trainer/curves"
	"github.com/ldalign/ldalign/trainer/loop"
)

// adapted makes a run train an adapter, in two epochs.
func adapted(s *schemas.Spec) {
	s.Objective.Kind, s.Training.Epochs = "spin", 2
	s.Optimizer.Kind, s.Optimizer.LR = "adamw", 1e-2
	s.Training.LoRA = &schemas.LoRASpec{Rank: 3, Alpha: 6, Targets: "q_proj, v_proj, down_proj", Scaling: "rslora"}
}

// names are the files of a checkpoint.
func names(m checkpoints.Manifest) []string {
	var list []string
	for _, f := range m.Files {
		list = append(list, f.Name)
	}
	return list
}

// TestInterruptedAdapterEqualsUndisturbed: also a run that trains an adapter goes on from where it was, to the bit, and
// its states hold the adapter alone.
func TestInterruptedAdapterEqualsUndisturbed(t *testing.T) {
	w := newWorld(t)
	w.finish(testSpec("undisturbed", adapted))
	want := w.results("undisturbed")
	if len(want) != 3 {
		t.Fatalf("%d checkpoints, want policies 0, 1 and 2", len(want))
	}
	const first, second = "train spin 0", "train spin 1"
	type stop struct {
		work string
		step int
	}
	everywhere := []stop{}
	for step := range 7 {
		everywhere = append(everywhere, stop{first, step})
	}
	for _, test := range []struct {
		run   string
		stops []stop
	}{
		{"at-0", []stop{{second, 0}}},
		{"in-epoch-2", []stop{{second, 4}}},
		{"at-last", []stop{{first, 6}}},
		{"everywhere", everywhere},
	} {
		t.Run(test.run, func(t *testing.T) {
			spec := testSpec(test.run, adapted)
			for _, s := range test.stops {
				ctx, meter := stopAt(t.Context(), s.work, s.step)
				if err := w.work(ctx, spec, meter); !errors.Is(err, trainer.ErrInterrupted) {
					t.Fatalf("stopped at step %d of %s: %v, want trainer.ErrInterrupted", s.step, s.work, err)
				}
				state := w.latest(test.run, checkpoints.State)
				if diff := cmp.Diff([]string{"adapter/" + architecture.AdapterWeightsFile, checkpoints.BatchesFile, loop.OptimizerFile, curves.File}, names(state)); diff != "" {
					t.Fatalf("files of a state (-want +got):\n%s", diff)
				}
			}
			w.finish(spec)
			if diff := cmp.Diff(want, w.results(test.run)); diff != "" {
				t.Errorf("(-undisturbed +interrupted):\n%s", diff)
			}
		})
	}
}

// TestKilledAdapterEqualsUndisturbed: and so does one that had no time to save.
func TestKilledAdapterEqualsUndisturbed(t *testing.T) {
	w := newWorld(t)
	w.finish(testSpec("undisturbed", adapted))
	spec := testSpec("killed", adapted, func(s *schemas.Spec) { s.Training.CheckpointEvery = 1 })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := w.work(ctx, spec, func(work string, done, _ int) {
		if work == "train spin 1" && done >= 3 {
			w.store.refuse.Store(true)
			cancel()
		}
	})
	w.store.refuse.Store(false)
	if err == nil {
		t.Fatal("the run was not cut off")
	}
	w.finish(spec)
	if diff := cmp.Diff(w.results("undisturbed"), w.results("killed")); diff != "" {
		t.Errorf("(-undisturbed +killed):\n%s", diff)
	}
}

// TestPolicyIsItsParentWithTheAdapter: what an iteration publishes is the policy that it began with, untouched, plus
// the adapter that lies beside, to the bit; so a user who takes the adapter gets the model.
func TestPolicyIsItsParentWithTheAdapter(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	spec := testSpec("adapted", adapted)
	w.finish(spec)
	for iteration := range uint32(2) {
		before, after := w.policy(spec.Run, iteration), w.policy(spec.Run, iteration+1)
		base, err := w.checkpoints.Folder(ctx, before)
		if err != nil {
			t.Fatal(err)
		}
		folder := filepath.Join(t.TempDir(), "policy")
		if err := w.checkpoints.Materialise(ctx, after, folder); err != nil {
			t.Fatal(err)
		}
		model, err := models.Load(ctx, w.engine, base, models.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := model.LoadAdapter(ctx, filepath.Join(folder, "adapter")); err != nil {
			t.Fatal(err)
		}
		if lora, _ := model.Adapter(); lora.Rank != 3 || lora.Alpha != 6 || !lora.RSLoRA || len(model.Trainable()) != 6 {
			t.Errorf("policy %d: adapter %+v of %d matrices", iteration+1, lora, len(model.Trainable()))
		}
		var got bytes.Buffer
		if err := errors.Join(model.MergeAdapter(ctx), model.WriteWeights(ctx, &got), model.Close(ctx)); err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(folder, checkpoints.WeightsFile))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("policy %d is not policy %d with its adapter", iteration+1, iteration)
		}
		if w.file(before, checkpoints.WeightsFile).SHA256 == w.file(after, checkpoints.WeightsFile).SHA256 {
			t.Errorf("iteration %d trained nothing", iteration)
		}
		for _, r := range w.records(after) {
			if !(r.GradNorm > 0) {
				t.Errorf("iteration %d, step %d: gradient norm %g", iteration, r.Step, r.GradNorm)
			}
		}
	}
	// A run that begins with the policy does not inherit the adapter that made it.
	next := testSpec("next", func(s *schemas.Spec) {
		s.Model.From, s.Model.Scratch, s.Objective.Kind, s.Iterations = "run:adapted", nil, "sft", 1
	})
	w.finish(next)
	for i := range uint32(2) {
		for _, name := range names(w.policy("next", i)) {
			if strings.HasPrefix(name, "adapter/") {
				t.Errorf("policy %d of the next run has %s", i, name)
			}
		}
	}
	if w.file(w.policy("next", 0), checkpoints.WeightsFile).SHA256 != w.file(w.policy("adapted", 2), checkpoints.WeightsFile).SHA256 {
		t.Error("the next run begins with another policy")
	}
}

// TestAdapterWithoutLayers: targets that the model does not have are told before anything is committed.
func TestAdapterWithoutLayers(t *testing.T) {
	w := newWorld(t)
	spec := testSpec("none", adapted, func(s *schemas.Spec) { s.Training.LoRA.Targets = "c_attn" })
	err := w.work(t.Context(), spec, silent)
	if !errors.Is(err, architecture.ErrAdapter) || !strings.Contains(err.Error(), `training.lora`) ||
		!strings.Contains(err.Error(), `["c_attn"]`) {
		t.Errorf("%v, want an error that names the section and the targets", err)
	}
	if all, err := w.checkpoints.List(t.Context(), "none"); err != nil || len(all) != 0 {
		t.Errorf("%d checkpoints are left (%v)", len(all), err)
	}
}
