//go:build integration

package main

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ldalign/ldalign/schemas"
)

// A control build in another folder, without libtorch, runs the prompter of a cluster, and watches, pauses, resumes and checks a run
// over NATS and S3 alone.
func TestIntegrationControl(t *testing.T) {
	const run = "streaming"
	var c cluster
	c.nats, c.monitor = startNATS(t)
	c.s3 = startMinIO(t, c.nats)
	vars := []string{
		"LDALIGN_NATS=" + c.nats, "LDALIGN_S3=" + c.s3, "LDALIGN_S3_ACCESS_KEY=" + account, "LDALIGN_S3_SECRET_KEY=" + password,
		"LDALIGN_DIR=" + filepath.Join(t.TempDir(), "watching"),
	}
	ld := func(args string) output { t.Helper(); return controlled(t, vars, args) }

	trainer := start(t, c.command(t, "trainer", "testdata/streaming.yaml"))
	n := c.reader(t)
	if !trainer.eventually(t, "policy 0", func() bool { return n.count(t, schemas.Checkpoints, run) > 0 }) {
		t.Fatalf("the trainer ended:\n%s", trainer.stderr.String())
	}
	ld("pause "+run+" --stage generator").want(t, 0, "generator of run streaming is paused")
	prompter := start(t, control(t, controlBuild(t), vars, "worker", "prompter", "--run", run))
	generator := start(t, c.command(t, "worker", "generator", "--run", run))
	if !prompter.eventually(t, "prompts", func() bool { return n.count(t, schemas.Prompts, run) > 0 }) {
		t.Fatalf("the prompter ended:\n%s", prompter.stderr.String())
	}
	ld("status "+run).want(t, 0, "generator is paused by", "the run waits for:", "prompter")
	ld("tail prompts -n 1").want(t, 0, `"subject":"ldalign.prompts.streaming.0"`)
	ld("runs").want(t, 0, run)
	ld("resume "+run+" --stage generator").want(t, 0, "generator of run streaming is resumed")

	watch := start(t, control(t, controlBuild(t), vars, "status", run, "--watch", "--every", "100ms"))
	if code := trainer.wait(t); code != 0 {
		t.Fatalf("the trainer ended with %d:\n%s", code, trainer.stderr.String())
	}
	if code := watch.wait(t); code != 0 || !strings.Contains(watch.stdout.String(), "complete") {
		t.Errorf("watching ended with %d:\n%s%s", code, watch.stdout.String(), watch.stderr.String())
	}
	for _, p := range []*process{prompter, generator} {
		if err := p.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if code := p.wait(t); code != 0 {
			t.Errorf("%v ended with %d when it was told to end:\n%s", p.Args, code, p.stderr.String())
		}
	}
	ld("audit "+run).want(t, 0, "60 prompts", "balances")
	ld("deadletters list "+run).want(t, 0, "no dead letters")
	ld("checkpoints list "+run).want(t, 0, "policy")
	ld("checkpoints export "+run+" "+filepath.Join(t.TempDir(), "policy")).want(t, 0, "policy of run streaming after iteration 2")
	ld("report "+run).want(t, 0, "report: ")
	ld("compare "+run).want(t, 0, "comparison: ")
	ld("fork "+run+" --dry-run").want(t, 0, "# stages that run:")
	ld("backup "+run+" --to "+filepath.Join(t.TempDir(), "backup")).want(t, 0, "`ldalign restore ")
	began := time.Now()
	ld("status "+run).want(t, 0, "complete")
	t.Logf("status of the complete run took %v", time.Since(began).Round(time.Millisecond))
}
