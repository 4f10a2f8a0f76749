package streams

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams/clustertest"
)

// replicated are limits of a run on three servers.
var replicated = Limits{AckWait: 2 * time.Second, MaxDeliver: 3, Retry: 50 * time.Millisecond, Replicas: 3}

// join opens the streams of a cluster through the server at url.
func join(t *testing.T, url string) *Conn {
	t.Helper()
	c, err := Open(testContext(t), Options{URL: url, Limits: replicated, Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// Publishers on three servers store the same messages at the same time, as several workers do with a redelivered prompt.
func TestSameMessagesAtTheSameTime(t *testing.T) {
	const n, publishers = 200, 3
	cluster := clustertest.Start(t)
	declare(t, join(t, cluster.URL()), "r", replicated)
	var all sync.WaitGroup
	for _, s := range cluster.Servers {
		c := join(t, s.URL)
		all.Go(func() {
			for _, m := range promptList("r", 0, n) {
				if err := c.Publish(testContext(t), schemas.Prompts, m); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	if got := stored(t, join(t, cluster.URL()), schemas.Prompts, "r"); len(got) != n {
		t.Errorf("%d messages, want %d", len(got), n)
	}
}

// Publishers wait while the server with their stream is away: with replicas until another server leads the stream, without them
// until the server is back.
func TestPublishWaitsForALeader(t *testing.T) {
	const n = 20
	cluster := clustertest.Start(t)
	alone := replicated
	alone.Replicas = 1
	c := join(t, cluster.URL())
	declare(t, c, "three", replicated)
	declare(t, c, "one", alone)
	for _, run := range []string{"three", "one"} {
		leader := cluster.Leader(t, StreamName(schemas.Prompts, run))
		var log buffer
		c, err := Open(testContext(t), Options{
			URL: cluster.URL(leader), Limits: replicated, Log: zerolog.New(&log).Level(zerolog.InfoLevel),
		})
		if err != nil {
			t.Fatal(err)
		}
		publish(t, c, schemas.Prompts, prompt(run, 0, 0))
		leader.Kill()
		stored := make(chan error, 1)
		go func() { stored <- c.Publish(testContext(t), schemas.Prompts, promptList(run, 0, n)...) }()
		if run == "one" {
			for !strings.Contains(log.String(), "cannot publish to") { // and then much longer than five tries take
				pause(testContext(t), 10*time.Millisecond)
			}
			pause(testContext(t), 3*time.Second)
			leader.Start(t)
		}
		if err := <-stored; err != nil {
			t.Errorf("run %s: %v", run, err)
		}
		if run == "three" {
			leader.Start(t)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		for _, line := range []string{"cannot publish to", "no longer waiting to publish"} {
			if got := strings.Count(log.String(), line); got != 1 {
				t.Errorf("run %s: %d times %q in\n%s", run, got, line, log.String())
			}
		}
	}
	for _, run := range []string{"three", "one"} {
		if got := stored(t, c, schemas.Prompts, run); len(got) != n {
			t.Errorf("run %s: %d messages, want %d", run, len(got), n)
		}
	}
}

// A client of a server that is cut off from the others, and so lacks the newest messages, does not read old ones.
func TestReadsAreNotStale(t *testing.T) {
	const n = 20
	cluster := clustertest.Start(t)
	c := join(t, cluster.URL())
	declare(t, c, "r", replicated)
	bucket := func(c *Conn) jetstream.KeyValue {
		kv, err := c.bucket(testContext(t), leaseBucket)
		if err != nil {
			t.Fatal(err)
		}
		return kv
	}
	bucket(c)
	publish(t, c, schemas.Prompts, promptList("r", 0, n/2)...)
	leaders := []*clustertest.Server{cluster.Leader(t, StreamName(schemas.Prompts, "r")), cluster.Leader(t, streamOf(leaseBucket))}
	i := slices.IndexFunc(cluster.Servers, func(s *clustertest.Server) bool { return !slices.Contains(leaders, s) })
	behind := cluster.Servers[i]
	theirs := join(t, behind.URL)
	kv := bucket(theirs)
	for _, server := range cluster.Servers { // all are up to date, so the test begins with equal replicas
		await(t, join(t, server.URL), schemas.Prompts, "r", n/2)
	}

	behind.Isolate(true)
	c = join(t, cluster.URL(behind))
	publish(t, c, schemas.Prompts, promptList("r", 0, n)...)
	revision, err := bucket(c).Put(testContext(t), "r", []byte("new"))
	if err != nil {
		t.Fatal(err)
	}
	var newest Entry
	var entry jetstream.KeyValueEntry
	var all sync.WaitGroup
	all.Go(func() {
		var err error
		if newest, err = theirs.Newest(testContext(t), schemas.Prompts, "r", 0); err != nil {
			t.Error(err)
		}
	})
	all.Go(func() {
		var err error
		entry, err = ask(testContext(t), theirs, "read", func(ctx context.Context) (jetstream.KeyValueEntry, error) {
			return kv.Get(ctx, "r")
		})
		if err != nil {
			t.Error(err)
		}
	})
	pause(t.Context(), 200*time.Millisecond) // a stale answer comes sooner
	behind.Isolate(false)
	all.Wait()
	if newest.Seq != n {
		t.Errorf("the newest prompt is %d, want %d", newest.Seq, n)
	}
	if entry == nil || entry.Revision() != revision {
		t.Errorf("the key is %v, want revision %d", entry, revision)
	}
}

// buffer may be read while it is written.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// A worker that waits for the server says so in its heartbeat.
func TestHeartbeatShowsAnOutage(t *testing.T) {
	c := openQuick(t)
	h := c.Announce(testContext(t), "r", "generator")
	defer h.Close()
	o := outage{conn: c, what: "publish to X"}
	o.failed(nats.ErrNoResponders)
	shows := func(state, detail string) {
		t.Helper()
		for {
			workers, err := c.Workers(testContext(t), "r")
			if err != nil {
				t.Fatal(err)
			}
			if len(workers) == 1 && workers[0].State == state && strings.Contains(workers[0].Detail, detail) {
				return
			}
			pause(testContext(t), 10*time.Millisecond)
		}
	}
	shows(StateRetrying, "cannot publish to X since")
	o.over()
	shows(StateStarting, "")
}
