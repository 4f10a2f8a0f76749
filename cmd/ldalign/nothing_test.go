package main

import (
	"context"
	"fmt"
	"testing"

	"github.com/ldalign/ldalign/ops/pipeline"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/stages/stagetest/nothing"
	"github.com/ldalign/ldalign/streams"
)

// withNothing is the pipeline with a stage that does nothing: its row.
func withNothing() pipeline.Table {
	return append(pipeline.Default(), pipeline.Row{
		Stage: runs.Stage{Name: "nothing", In: schemas.Pairs, Batch: func(schemas.Spec) int { return 8 }},
		Build: func(context.Context, pipeline.Job) (pipeline.Work, error) {
			return pipeline.Work{Process: streams.Many(nothing.Process)}, nil
		},
	})
}

// A stage costs one package and one row: every verb that names stages has it from there, and it changes no result.
func TestStageThatDoesNothing(t *testing.T) {
	const spec, run = "testdata/tiny.yaml", "tiny-ld"
	shared, _ := finished(t)
	dir := t.TempDir()
	ld := func(args ...string) output { return ldalignOf(t, withNothing(), append(args, "--dir", dir)...) }
	ld("plan", spec).want(t, 0, "prompter, generator, encoder, distance, evaluator, nothing, trainer")
	ld("worker", "--help").want(t, 0, "distance, evaluator or", "nothing.")
	ld("worker", "something", "--run", run).want(t, exitUsage, `"nothing"`)
	ld("up", spec).want(t, 0)
	if got, want := outcomeOf(t, dir, run), outcomeOf(t, shared, run); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("not what the run without it gave: %+v, want %+v", got, want)
	}
	ld("pause", run, "--stage", "nothing").want(t, 0, "nothing of run tiny-ld is paused")
	ld("resume", run, "--stage", "nothing").want(t, 0, "nothing of run tiny-ld is resumed")

	stages := lines[runs.Status](t, ld("status", run, "--json"))[0].Live.Stages
	if len(stages) != 7 || stages[5].Stage != "nothing" || stages[5].Reads != schemas.Pairs {
		t.Errorf("status: %+v", stages)
	}
	ld("audit", run).want(t, 0, "balances")
}
