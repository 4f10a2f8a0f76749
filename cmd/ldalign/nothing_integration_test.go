//go:build integration

package main

import (
	"os"
	"testing"

	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/streams"
)

// A worker of the stage that does nothing, a process of its own, settles every pair of a run on real servers.
func TestIntegrationStageThatDoesNothing(t *testing.T) {
	const run = "tiny-ld"
	var c cluster
	c.nats, c.monitor = startNATS(t)
	c.s3 = startMinIO(t, c.nats)
	ld := func(args ...string) output { return ldalignOf(t, withNothing(), c.args(t.TempDir(), args...)...) }
	n := c.reader(t) // sets the keys of the store as well
	ld("up", "testdata/tiny.yaml").want(t, 0)
	spec, err := runs.Spec(t.Context(), n.Session, run)
	if err != nil {
		t.Fatal(err)
	}
	worker := c.command(t, "worker", "nothing", "--run", run)
	worker.Env = append(worker.Env, programVar+"=nothing")
	p := start(t, worker)
	settled := func() bool {
		l, err := n.Liveness(t.Context(), spec, withNothing().Stages())
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
	ld("audit", run).want(t, 0, "balances")
}
