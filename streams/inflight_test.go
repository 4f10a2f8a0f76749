package streams

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// pacedStage is a prompter of 30 prompts per iteration, of which 8 may be ahead of the trainer. Iteration 7 has no bound.
func pacedStage(run string) (Stage, Process) {
	s := Stage{Name: "prompter", In: schemas.Checkpoints, Run: run, MaxInFlight: func(iteration uint32) int {
		if iteration == 7 {
			return 0
		}
		return 8
	}}
	return s, func(_ context.Context, in []events.Message) []Outcome {
		i := in[0].GetIteration()
		return []Outcome{{Out: emit(append(promptList(run, i, 30), closedAt(run, i, 30))...)}}
	}
}

func policyEvent(run string, iteration uint32) *events.Checkpoint {
	return &events.Checkpoint{
		Schema: events.Version, Run: run, Kind: "policy", Iteration: iteration, Digest: fmt.Sprintf("policy-%d", iteration),
	}
}

// rests waits until the prompter of a run reports back-pressure with the given number of pairs taken by the trainer. It returns
// the ids of the prompts that the log then holds.
func rests(t *testing.T, c *Conn, run string, taken int) []string {
	t.Helper()
	ctx := testContext(t)
	for {
		workers, err := c.Workers(ctx, run)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range workers {
			var n, of int
			if _, err := fmt.Sscanf(w.Detail, "the trainer has taken %d of %d", &n, &of); err == nil &&
				w.State == StateBackPressure && n == taken {
				return idsOf(stored(t, c, schemas.Prompts, run))
			}
		}
		if !pause(ctx, 5*time.Millisecond) {
			t.Fatalf("the prompter does not rest at %d: %+v", taken, workers)
		}
	}
}

// A stage publishes at most MaxInFlight prompts more than the trainer has taken, also when workers end in between. Then it closes
// the iteration.
func TestAhead(t *testing.T) {
	c := openQuick(t)
	s, process := pacedStage("r")
	all := idsOf(receivedOf(promptList("r", 0, 30)))
	taken := func(n int) {
		t.Helper()
		if err := c.TrainerProgress(testContext(t), "r", 0, n); err != nil {
			t.Fatal(err)
		}
	}
	want := func(n int, got []string) {
		t.Helper()
		if diff := cmp.Diff(all[:n], got); diff != "" {
			t.Fatalf("prompts on the log (-want +got):\n%s", diff)
		}
		for _, m := range stored(t, c, schemas.Control, "r") {
			if m.Message.(*events.Control).GetKind() == events.ControlClosed && n < 30 {
				t.Fatalf("the iteration is closed behind %d of 30 prompts", n)
			}
		}
	}
	publish(t, c, schemas.Checkpoints, policyEvent("r", 0))
	stop := start(t, c, s, process)
	want(8, rests(t, c, "r", 0))
	taken(5)
	want(13, rests(t, c, "r", 5))
	taken(3) // as from a trainer that resumes from an earlier state
	taken(6)
	want(14, rests(t, c, "r", 6))
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	consumerIs(t, c, s, func(unread, unanswered int) bool { return unread+unanswered == 1 }) // given back

	// another worker continues from what the log holds, even when the server has forgotten the ids
	forget := c.limits
	forget.DedupWindow = 100 * time.Millisecond
	declare(t, c, "r", forget)
	start(t, c, s, process)
	want(14, rests(t, c, "r", 6))
	taken(20)
	want(28, rests(t, c, "r", 20))
	taken(30)
	settled(t, c, s)
	want(30, idsOf(stored(t, c, schemas.Prompts, "r")))
	control := stored(t, c, schemas.Control, "r")
	last, prompts := control[len(control)-1], stored(t, c, schemas.Prompts, "r")
	if last.Message.(*events.Control).GetKind() != events.ControlClosed || last.Time.Before(prompts[29].Time) {
		t.Errorf("the last control message is %v, want that which closes the iteration behind its prompts", last.Message)
	}

	// an iteration without a bound does not wait
	publish(t, c, schemas.Checkpoints, policyEvent("r", 7))
	await(t, c, schemas.Prompts, "r", 60)
	settled(t, c, s)
}

func receivedOf(messages []events.Message) []Received {
	out := make([]Received, len(messages))
	for i, m := range messages {
		out[i].Message = m
	}
	return out
}

// A stage that waits for the trainer rests while it is paused, and continues afterwards.
func TestAheadPaused(t *testing.T) {
	c := openQuick(t)
	s, process := pacedStage("r")
	publish(t, c, schemas.Checkpoints, policyEvent("r", 0))
	start(t, c, s, process)
	rests(t, c, "r", 0)
	if err := c.Pause(testContext(t), "r", "prompter", "test"); err != nil {
		t.Fatal(err)
	}
	consumerIs(t, c, s, func(unread, unanswered int) bool { return unread+unanswered == 1 })
	ctx := testContext(t)
	for {
		workers, err := c.Workers(ctx, "r")
		if err != nil {
			t.Fatal(err)
		}
		if len(workers) == 1 && workers[0].State == StatePaused {
			break
		}
		if !pause(ctx, 5*time.Millisecond) {
			t.Fatalf("it does not pause: %+v", workers)
		}
	}
	if err := c.TrainerProgress(testContext(t), "r", 0, 30); err != nil {
		t.Fatal(err)
	}
	if got := len(stored(t, c, schemas.Prompts, "r")); got != 8 {
		t.Errorf("%d prompts are published while it is paused, want 8", got)
	}
	if err := c.Resume(testContext(t), "r", "prompter"); err != nil {
		t.Fatal(err)
	}
	await(t, c, schemas.Prompts, "r", 30)
	settled(t, c, s)
}

// A message that waits for the trainer does not become a dead letter, however many workers end in the meantime.
func TestAheadOutlivesWorkers(t *testing.T) {
	c := openQuick(t)
	s, process := pacedStage("r")
	publish(t, c, schemas.Checkpoints, policyEvent("r", 0))
	for range quick.MaxDeliver + 1 {
		stop := start(t, c, s, process)
		rests(t, c, "r", 0)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
	trials, err := c.bucket(testContext(t), trialBucket)
	if err != nil {
		t.Fatal(err)
	}
	seq := stored(t, c, schemas.Checkpoints, "r")[0].Seq
	if _, err := trials.Put(testContext(t), fmt.Sprintf("prompter.r.%d", seq), []byte("99")); err != nil {
		t.Fatal(err)
	}
	start(t, c, s, process)
	if err := c.TrainerProgress(testContext(t), "r", 0, 30); err != nil {
		t.Fatal(err)
	}
	settled(t, c, s)
	if got := len(stored(t, c, schemas.Prompts, "r")); got != 30 {
		t.Errorf("%d prompts, want 30", got)
	}
	if letters := stored(t, c, schemas.DeadLetters, "r"); len(letters) > 0 {
		t.Errorf("dead letters: %v", letters[0].Message)
	}
}

// A stage with MaxInFlight must have batches of one message.
func TestAheadTakesNoBatch(t *testing.T) {
	c := openQuick(t)
	s, process := pacedStage("r")
	s.Batch = 2
	if err := c.RunStage(testContext(t), s, process); err == nil {
		t.Error("a batch of 2 is taken")
	}
}
