package trainer_test

import (
	"context"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/streams"
)

// TestOutageBeyondTheLease: the NATS server is away until the trainer's lease is doubtful. The trainer saves its state, makes no
// steps, and goes on when it has renewed the lease.
func TestOutageBeyondTheLease(t *testing.T) {
	const work, step = "train ldalign 0", 2
	w := newWorld(t)
	w.finish(testSpec("undisturbed"))
	want := w.results("undisturbed")

	dir := t.TempDir()
	server := serveIn(t, dir, "127.0.0.1:0")
	t.Cleanup(func() { server.Close() })
	address := strings.TrimPrefix(server.URL(), "nats://")
	doubted, log := make(chan struct{}), &lineWatcher{text: "cannot renew the lease", seen: make(chan struct{})}
	w.log = zerolog.New(log)
	var err error
	if w.streams, err = streams.Open(t.Context(), streams.Options{URL: server.URL(), Log: w.log, Name: "test"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.streams.Close() })
	// The server returns when the trainer writes the state's files. Their manifest waits for the lease.
	var away, back sync.Once
	w.store.put = func(key string) {
		select {
		case <-doubted:
			back.Do(func() { server = serveIn(t, dir, address) })
		default:
		}
	}
	w.leaseTTL = time.Second
	spec := testSpec("disturbed")
	if err := w.work(t.Context(), spec, func(now string, done, _ int) {
		if now == work && done == step {
			away.Do(func() {
				server.Close()
				<-log.seen
				close(doubted)
			})
		}
	}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, w.results(spec.Run)); diff != "" {
		t.Errorf("(-undisturbed +with an outage):\n%s", diff)
	}
	if state := w.latest(spec.Run, checkpoints.State); state.Cursor.Step != step {
		t.Errorf("the state is of step %d, want %d", state.Cursor.Step, step)
	}
}

// serveIn runs a NATS server that other connections can reach.
func serveIn(t *testing.T, dir, listen string) *streams.Conn {
	t.Helper()
	c, err := streams.Open(context.WithoutCancel(t.Context()), streams.Options{
		Dir: filepath.Join(dir, "streams"), Listen: listen, Limits: streams.Limits{Sync: time.Minute}, Log: zerolog.New(io.Discard),
	})
	if err != nil {
		t.Error(err)
	}
	return c
}

// lineWatcher closes seen when a text is logged.
type lineWatcher struct {
	text string
	seen chan struct{}
	once sync.Once
}

func (w *lineWatcher) Write(p []byte) (int, error) {
	if strings.Contains(string(p), w.text) {
		w.once.Do(func() { close(w.seen) })
	}
	return len(p), nil
}
