package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/rs/zerolog"

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

	works(t, dir, run)
	status := lines[runs.Status](t, ld("status", run, "--json"))[0]
	stages := status.Live.Stages
	if len(stages) != 7 || stages[5].Stage != "nothing" || stages[5].Reads != schemas.Pairs || stages[5].Lag != 0 {
		t.Errorf("status: %+v", stages)
	}
	ld("audit", run).want(t, 0, "balances")
}

// works has a worker of the stage, a process of its own, settle every pair of a run, and ends it.
func works(t *testing.T, dir, run string) {
	t.Helper()
	store := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})) // no stage reads from it
	defer store.Close()
	address := freeAddress(t)
	s, err := runs.Open(t.Context(), runs.Options{
		Dir: dir, Limits: schemas.Default().Streams, Listen: address, Name: "test", Log: zerolog.Nop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	spec, err := runs.Spec(t.Context(), s, run)
	if err != nil {
		t.Fatal(err)
	}
	c := command("worker", "nothing", "--run", run, "--nats", "nats://"+address, "--s3", store.URL, "--dir", t.TempDir())
	c.Env = append(c.Env, programVar+"=nothing", "LDALIGN_S3_ACCESS_KEY=any", "LDALIGN_S3_SECRET_KEY=any")
	p := start(t, c)
	settled := func() bool {
		l, err := s.Liveness(t.Context(), spec, withNothing().Stages())
		if err != nil {
			t.Fatal(err)
		}
		stage := l.Stages[5]
		return stage.Lag == 0 && len(stage.Workers) == 1 && stage.Workers[0].State == streams.StateIdle
	}
	if !p.eventually(t, "the worker to have settled all pairs", settled) {
		t.Fatalf("it ended by itself:\n%s", p.stderr.String())
	}
	if err := p.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	output{p.wait(t), p.stdout.String(), p.stderr.String()}.want(t, 0, "nothing of run tiny-ld is ready")
}

// freeAddress is one of this machine's where nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
