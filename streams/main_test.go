package streams

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams/clustertest"
)

// childEnv makes a child process run a role of this test binary in place of its tests.
const childEnv = "LDALIGN_STREAMS_CHILD"

func TestMain(m *testing.M) {
	clustertest.Main()
	if role := os.Getenv(childEnv); role != "" {
		os.Exit(child(role))
	}
	goleak.VerifyTestMain(m)
}

// quick are limits with short retries and without disk sync. AckWait is long, so that a worker on a busy machine keeps its
// messages. Tests of crashes use durable, with quick redeliveries and every message synced, as is the default.
var (
	quick   = Limits{AckWait: 2 * time.Second, MaxDeliver: 3, Retry: 5 * time.Millisecond, Sync: time.Minute}
	durable = Limits{AckWait: 300 * time.Millisecond, MaxDeliver: quick.MaxDeliver, Retry: quick.Retry}
)

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
func openIn(t *testing.T, dir string, limits Limits) *Conn {
	t.Helper()
	c, err := Open(testContext(t), Options{Dir: dir, Limits: limits, Log: testLog(t)})
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
func declare(t *testing.T, c *Conn, run string, limits Limits) {
	t.Helper()
	if err := c.Declare(testContext(t), run, limits); err != nil {
		t.Fatal(err)
	}
}

// declared makes the streams of a run that a test uses beside r.
func declared(t *testing.T, c *Conn, run string) {
	t.Helper()
	if _, err := c.State(testContext(t), schemas.Control, run); errors.Is(err, ErrNotFound) {
		declare(t, c, run, quick)
	}
}

func openQuick(t *testing.T) *Conn { return openIn(t, t.TempDir(), quick) }

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

// at returns the message of a kind that carries a prompt.
func at(kind schemas.Kind, p *events.Prompt) events.Message {
	switch kind {
	case schemas.Pairs:
		return pairOf(p)
	case schemas.Encoded:
		return &events.Encoded{Schema: 1, Pair: pairOf(p)}
	case schemas.Scored:
		return scoredOf(p)
	default:
		return p
	}
}

// pairID returns the id of the i-th pair of run r.
func pairID(i int) string { return prompt("r", 0, i).GetPairId() }

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

func publish(t *testing.T, c *Conn, kind schemas.Kind, msgs ...events.Message) {
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
func answer(_ context.Context, in []events.Message) []Outcome {
	out := make([]Outcome, len(in))
	for i, m := range in {
		out[i].Out = []Emit{{schemas.Pairs, pairOf(m.(*events.Prompt))}}
	}
	return out
}

// generator is a stage that reads prompts.
func generator(run string, batch int) Stage {
	return Stage{Name: "generator", In: schemas.Prompts, Run: run, Batch: batch}
}

// start runs a stage until stop is called, which returns RunStage's result. The end of the test also calls stop.
func start(t *testing.T, c *Conn, s Stage, process Process) (stop func() error) {
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
func await(t *testing.T, c *Conn, kind schemas.Kind, run string, n int) []Received {
	t.Helper()
	var got []Received
	err := c.Follow(testContext(t), kind, run, AllIterations, 0, func(r Received) error {
		if got = append(got, r); len(got) == n {
			return ErrStop
		}
		return nil
	})
	if err != nil {
		t.Fatalf("waiting for %d %s: got %d: %v", n, kind, len(got), err)
	}
	return got
}

// stored returns what the log holds of a kind now.
func stored(t *testing.T, c *Conn, kind schemas.Kind, run string) []Received {
	t.Helper()
	var got []Received
	err := c.Read(testContext(t), kind, run, AllIterations, 0, func(r Received) error {
		got = append(got, r)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// idsOf returns the pair ids in the order of the log.
func idsOf(got []Received) []string {
	ids := make([]string, len(got))
	for i, r := range got {
		ids[i] = r.Message.ID()
	}
	return ids
}

// settled waits until the stage's consumer has nothing left: neither unread nor unanswered.
func settled(t *testing.T, c *Conn, s Stage) {
	t.Helper()
	consumerIs(t, c, s, func(unread, unanswered int) bool { return unread == 0 && unanswered == 0 })
}

// consumerIs waits until the stage's consumer is as expected.
func consumerIs(t *testing.T, c *Conn, s Stage, right func(unread, unanswered int) bool) {
	t.Helper()
	ctx := testContext(t)
	for {
		var unread, unanswered int
		consumer, err := c.js.Consumer(ctx, StreamName(s.In, s.Run), s.consumer(c.limits).Durable)
		switch {
		case err == nil:
			info := consumer.CachedInfo()
			if unread, unanswered = int(info.NumPending), info.NumAckPending; right(unread, unanswered) {
				return
			}
		case !errors.Is(err, jetstream.ErrConsumerNotFound):
			t.Fatal(err)
		}
		if !pause(ctx, 5*time.Millisecond) {
			t.Fatalf("%d unread, %d unanswered", unread, unanswered)
		}
	}
}

var errFlaky = errors.New("flaky")
