package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quick are limits with short retries and without disk sync.
var quick = streams.Limits{AckWait: 2 * time.Second, MaxDeliver: 3, Retry: 5 * time.Millisecond, Sync: time.Minute}

// patience is how long a test waits for something that must happen.
const testTimeout = 30 * time.Second

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

// testLog writes warnings and errors to the output of the test.
func testLog(t *testing.T) zerolog.Logger {
	return zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)
}

// openIn opens embedded streams on a folder, declares run r, and closes them when the test ends.
func openIn(t *testing.T, dir string, limits streams.Limits) *streams.Conn {
	t.Helper()
	c, err := streams.Open(testContext(t), streams.Options{Dir: dir, Listen: "127.0.0.1:0", Limits: limits, Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	declare(t, c, "r", limits)
	return c
}

// declare makes the streams of a run.
func declare(t *testing.T, c *streams.Conn, run string, limits streams.Limits) {
	t.Helper()
	if err := c.Declare(testContext(t), run, limits); err != nil {
		t.Fatal(err)
	}
}

// declared makes the streams of a run that a test uses beside r.
func declared(t *testing.T, c *streams.Conn, run string) {
	t.Helper()
	if _, err := c.State(testContext(t), schemas.Control, run); errors.Is(err, streams.ErrNotFound) {
		declare(t, c, run, quick)
	}
}

func openQuick(t *testing.T) *streams.Conn { return openIn(t, t.TempDir(), quick) }

// prompt returns the i-th prompt of an iteration.
func prompt(run string, iteration uint32, i int) *events.Prompt {
	name := fmt.Sprintf("p%03d", i)
	return &events.Prompt{
		Schema: events.Version, Run: run, Iteration: iteration, PairId: schemas.PairID(run, iteration, name, 0),
		PromptId: name, Position: uint64(i), Prompt: "question " + name, Response: "answer " + name,
	}
}

func promptList(run string, iteration uint32, n int) []events.Message {
	out := make([]events.Message, n)
	for i := range out {
		out[i] = prompt(run, iteration, i)
	}
	return out
}

func pairOf(p *events.Prompt) *events.Pair {
	return &events.Pair{Schema: events.Version, Prompt: p, Rejected: "reply to " + p.GetPrompt()}
}

func scoredOf(p *events.Prompt) *events.Scored {
	return &events.Scored{Schema: events.Version, Pair: pairOf(p), Distance: float64(p.GetPosition())}
}

func closedAt(run string, iteration uint32, total int) *events.Control {
	return &events.Control{
		Schema: events.Version, Run: run, Iteration: iteration, Kind: events.ControlClosed, Total: uint64(total),
	}
}

func publish(t *testing.T, c *streams.Conn, kind schemas.Kind, msgs ...events.Message) {
	t.Helper()
	for i, m := range msgs {
		if i == 0 || m.GetRun() != msgs[i-1].GetRun() {
			declared(t, c, m.GetRun())
		}
	}
	if err := c.Publish(testContext(t), kind, msgs...); err != nil {
		t.Fatal(err)
	}
}

// answer is the work of a stage that turns each prompt into its pair.
func answer(_ context.Context, in []events.Message) []streams.Outcome {
	out := make([]streams.Outcome, len(in))
	for i, m := range in {
		out[i].Out = []streams.Emit{{Kind: schemas.Pairs, Msg: pairOf(m.(*events.Prompt))}}
	}
	return out
}

// generator is a stage that reads prompts.
func generator(run string, batch int) streams.Stage {
	return streams.Stage{Name: "generator", In: schemas.Prompts, Run: run, Batch: batch}
}

// start runs a stage until stop is called, which returns RunStage's result. The end of the test also calls stop.
func start(t *testing.T, c *streams.Conn, s streams.Stage, process streams.Process) (stop func() error) {
	t.Helper()
	declared(t, c, s.Run)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.RunStage(ctx, s, process) }()
	var result error
	var stopped bool
	stop = func() error {
		if !stopped {
			cancel()
			result, stopped = <-ended, true
		}
		return result
	}
	t.Cleanup(func() {
		if err := stop(); err != nil && !t.Failed() {
			t.Errorf("RunStage: %v", err)
		}
	})
	return stop
}

// await follows a run's messages of a kind until there are n.
func await(t *testing.T, c *streams.Conn, kind schemas.Kind, run string, n int) []streams.Received {
	t.Helper()
	var got []streams.Received
	err := c.Follow(testContext(t), kind, run, streams.AllIterations, 0, func(r streams.Received) error {
		if got = append(got, r); len(got) == n {
			return streams.ErrStop
		}
		return nil
	})
	if err != nil {
		t.Fatalf("waiting for %d %s: got %d: %v", n, kind, len(got), err)
	}
	return got
}

// stored returns what the log holds of a kind now.
func stored(t *testing.T, c *streams.Conn, kind schemas.Kind, run string) []streams.Received {
	t.Helper()
	var got []streams.Received
	err := c.Read(testContext(t), kind, run, streams.AllIterations, 0, func(r streams.Received) error {
		got = append(got, r)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// idsOf returns the pair ids in the order of the log.
func idsOf(got []streams.Received) []string {
	ids := make([]string, len(got))
	for i, r := range got {
		ids[i] = r.Message.ID()
	}
	return ids
}

// settled waits until the stage's consumer has nothing left: neither unread nor unanswered.
func settled(t *testing.T, c *streams.Conn, s streams.Stage) {
	t.Helper()
	ctx := testContext(t)
	for {
		readers, err := c.Readers(ctx, s.In, s.Run)
		if err != nil {
			t.Fatal(err)
		}
		left, there := 0, false
		for _, r := range readers {
			if of, _, _ := strings.Cut(r.Stage, "-"); of == s.Name {
				left, there = left+r.Unread+r.Unanswered, true
			}
		}
		if there && left == 0 {
			return
		}
		if !pause(ctx, 5*time.Millisecond) {
			t.Fatalf("%+v", readers)
		}
	}
}

// pause waits for d and reports whether ctx outlived it.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

var errFlaky = errors.New("flaky")

// raw is the server behind the streams, for what only its operator can do.
func raw(t *testing.T, c *streams.Conn) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(c.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// foreign stores bytes under a message id, as another program might.
func foreign(t *testing.T, c *streams.Conn, kind schemas.Kind, run string, iteration uint32, id string, data []byte) {
	t.Helper()
	e := streams.Entry{Subject: schemas.Subject(kind, run, iteration), Header: nats.Header{nats.MsgIdHdr: {id}}, Data: data}
	if err := c.Store(testContext(t), kind, e); err != nil {
		t.Fatal(err)
	}
}

// put stores raw bytes under the id of the i-th pair, as another program might.
func put(t *testing.T, c *streams.Conn, kind schemas.Kind, i int, data []byte) {
	t.Helper()
	if err := c.Store(testContext(t), kind, streams.NewEntry(kind, "r", 0, pairID(i), "", data)); err != nil {
		t.Fatal(err)
	}
}

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// protocmp compares messages as messages.
func protocmp() cmp.Option {
	return cmp.Comparer(func(a, b proto.Message) bool { return proto.Equal(a, b) })
}
