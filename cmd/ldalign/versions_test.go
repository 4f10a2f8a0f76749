package main

import (
	"strings"
	"testing"
	"time"

	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/streams"
)

// Replicas need a server that may be a cluster, which the spec or the command line names.
func TestReplicasNeedAServer(t *testing.T) {
	const replicas = "streams.replicas=3"
	ldalign(t, "up", "testdata/tiny.yaml", "--dry-run", "--set", replicas).want(t, exitUsage,
		"testdata/tiny.yaml: streams.replicas: 3 replicas need a cluster: set servers.nats or --nats")
	ldalign(t, "up", "testdata/tiny.yaml", "--dry-run", "--set", replicas, "--nats", "nats://127.0.0.1:4222").want(t, 0, "replicas: 3")
	ldalign(t, "up", "testdata/tiny.yaml", "--dry-run", "--set", replicas, "--set", "servers.nats=nats://127.0.0.1:4222").want(t, 0)
}

func TestStatusHasTheVersionOfEachWorker(t *testing.T) {
	var b strings.Builder
	worker := streams.Worker{Worker: "host/1", Version: "v1.2.3", State: streams.StateIdle, Since: time.Now(), Seen: time.Now()}
	err := printStatus(&b, runs.Status{State: runs.StateGoing, Live: &runs.Liveness{Stages: []runs.StageLiveness{
		{Stage: "generator", Workers: []streams.Worker{worker}}, {Stage: "encoder"},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(b.String(), "\n") {
		if fields := strings.Fields(line); len(fields) > 0 && fields[0] == "generator" &&
			!strings.Contains(line, "host/1  v1.2.3   no input") {
			t.Errorf("the line of the worker is %q", line)
		}
	}
	if !strings.Contains(b.String(), "worker  version  state") {
		t.Errorf("status:\n%s", b.String())
	}
}
