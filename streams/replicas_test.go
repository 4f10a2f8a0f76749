package streams

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams/clustertest"
)

// replicasOf returns the replicas of a run's streams and of the buckets, by stream.
func replicasOf(t *testing.T, c *Conn, run string) map[string]int {
	t.Helper()
	got := map[string]int{}
	names := []string{
		streamOf(leaseBucket), streamOf(pauseBucket), streamOf(trialBucket), streamOf(heartbeatBucket),
	}
	for _, log := range Logs() {
		names = append(names, StreamName(log, run))
	}
	for _, name := range names {
		stream, err := c.js.Stream(testContext(t), name)
		if err != nil {
			t.Fatal(err)
		}
		got[name] = stream.CachedInfo().Config.Replicas
	}
	return got
}

func allAre(got map[string]int, n int) bool {
	for _, have := range got {
		if have != n {
			return false
		}
	}
	return true
}

// caughtUp waits until the two other replicas of a stream or consumer are current.
func caughtUp(t *testing.T, what string, info func() (*jetstream.ClusterInfo, error)) {
	t.Helper()
	ctx := testContext(t)
	for {
		current := 0
		cluster, err := info()
		if err == nil && cluster != nil {
			for _, peer := range cluster.Replicas {
				if peer.Current && !peer.Offline {
					current++
				}
			}
		}
		if current == 2 {
			return
		}
		if !pause(ctx, 20*time.Millisecond) {
			t.Fatalf("%s has %d other replicas: %v", what, current, err)
		}
	}
}

// A worker that is first creates nothing. A run that is declared with more replicas than before gets them, with the buckets that it
// uses, and survives the loss of a server. Declaring it with fewer changes nothing.
func TestReplicas(t *testing.T) {
	cluster := clustertest.Start(t)
	limits := quick
	c, err := Open(testContext(t), Options{URL: cluster.URL(), Limits: limits, Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	ctx := testContext(t)
	if err := c.RunStage(ctx, generator("r", 4), answer); !errors.Is(err, ErrNotFound) {
		t.Errorf("a worker before the declaration: %v, want ErrNotFound", err)
	}
	if runs, err := c.Runs(ctx); err != nil || len(runs) > 0 {
		t.Errorf("a worker has made streams of %v, %v", runs, err)
	}
	declare(t, c, "r", limits)
	if got := replicasOf(t, c, "r"); !allAre(got, 1) {
		t.Errorf("replicas %v, want 1 of each", got)
	}
	const n = 20
	publish(t, c, schemas.Prompts, promptList("r", 0, n/2)...)
	stop := start(t, c, generator("r", 4), answer)
	await(t, c, schemas.Pairs, "r", n/2)
	limits.Replicas = 3
	for _, replicas := range []int{3, 1} {
		limits.Replicas = replicas
		declare(t, c, "r", limits)
		if got := replicasOf(t, c, "r"); !allAre(got, 3) {
			t.Errorf("declared with %d: replicas %v, want 3 of each", replicas, got)
		}
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	// The new replicas of logs, buckets and the stage's consumer have caught up. Before that, they elect no leader.
	caughtUp(t, "the consumer", func() (*jetstream.ClusterInfo, error) {
		consumer, err := c.js.Consumer(ctx, StreamName(schemas.Prompts, "r"), "generator")
		if err != nil {
			return nil, err
		}
		return consumer.CachedInfo().Cluster, nil
	})
	for name := range replicasOf(t, c, "r") {
		caughtUp(t, name, func() (*jetstream.ClusterInfo, error) {
			stream, err := c.js.Stream(ctx, name)
			if err != nil {
				return nil, err
			}
			return stream.CachedInfo().Cluster, nil
		})
	}
	cluster.Leader(t, StreamName(schemas.Prompts, "r")).Kill()
	publish(t, c, schemas.Prompts, promptList("r", 0, n)...)
	start(t, c, generator("r", 4), answer)
	await(t, c, schemas.Pairs, "r", n)
}

// A server that runs alone says what replicas need.
func TestReplicasNeedACluster(t *testing.T) {
	c := openQuick(t)
	limits := quick
	limits.Replicas = 3
	for _, run := range []string{"r", "new"} {
		if err := c.Declare(testContext(t), run, limits); err == nil || !strings.Contains(err.Error(), "streams.replicas: 3 needs a cluster") {
			t.Errorf("run %s: %v", run, err)
		}
	}
}
