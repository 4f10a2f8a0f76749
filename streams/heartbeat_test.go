package streams

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// workersAre waits until a run's workers are as expected.
func workersAre(t *testing.T, c *Conn, run string, right func([]Worker) bool) []Worker {
	t.Helper()
	ctx := testContext(t)
	for {
		workers, err := c.Workers(ctx, run)
		if err != nil {
			t.Fatal(err)
		}
		if right(workers) {
			return workers
		}
		if !pause(ctx, 10*time.Millisecond) {
			t.Fatalf("workers %+v", workers)
		}
	}
}

func oneIs(state string) func([]Worker) bool {
	return func(w []Worker) bool { return len(w) == 1 && w[0].State == state }
}

// A worker reports its state while it runs and is removed from the list when it has ended.
func TestWorkersSayWhatTheyDo(t *testing.T) {
	c := openQuick(t)
	if none, err := c.Workers(testContext(t), "r"); err != nil || len(none) > 0 {
		t.Errorf("before the first: %v, %v", none, err)
	}
	release := make(chan struct{})
	stop := start(t, c, generator("r", 4), func(ctx context.Context, in []events.Message) []Outcome {
		select {
		case <-release:
		case <-ctx.Done():
		}
		return answer(ctx, in)
	})
	idle := workersAre(t, c, "r", oneIs(StateIdle))[0]
	if idle.Stage != "generator" || idle.Worker != thisWorker() || idle.Detail != "waiting for prompts" || idle.Seen.IsZero() {
		t.Errorf("%+v", idle)
	}
	publish(t, c, schemas.Prompts, promptList("r", 0, 3)...)
	working := workersAre(t, c, "r", oneIs(StateWorking))[0]
	close(release)
	done := workersAre(t, c, "r", func(w []Worker) bool { return oneIs(StateIdle)(w) && w[0].Done == 3 })[0]
	if done.Moves <= working.Moves {
		t.Errorf("moves %d, then %d", working.Moves, done.Moves)
	}
	if other, err := c.Workers(testContext(t), "other"); err != nil || len(other) > 0 {
		t.Errorf("of another run: %v, %v", other, err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	workersAre(t, c, "r", func(w []Worker) bool { return len(w) == 0 })
}

// A stage that cannot work reports what it waits for.
func TestWorkersSayWhatTheyWaitFor(t *testing.T) {
	c := openIn(t, t.TempDir(), Limits{Retry: time.Second})
	publish(t, c, schemas.Prompts, prompt("r", 0, 0))
	start(t, c, generator("r", 1), func(context.Context, []events.Message) []Outcome {
		return []Outcome{{Err: &schemas.Unavailable{Err: errors.New("checkpoint d0 is not there yet")}}}
	})
	w := workersAre(t, c, "r", oneIs(StateWaiting))[0]
	if w.Detail != "checkpoint d0 is not there yet" {
		t.Errorf("%+v", w)
	}
}

// A paused stage finishes the messages that it holds and then rests until it is resumed, also after restarts. Other stages
// continue.
func TestPause(t *testing.T) {
	c := openQuick(t)
	ctx := testContext(t)
	if err := c.Resume(ctx, "r", ""); !errors.Is(err, ErrNotFound) {
		t.Errorf("resumed what was not paused: %v", err)
	}
	for range 2 {
		if err := c.Pause(ctx, "r", "generator", "a test"); err != nil {
			t.Fatal(err)
		}
	}
	stop := start(t, c, generator("r", 2), answer)
	other := Stage{Name: "other", In: schemas.Prompts, Run: "r"}
	start(t, c, other, func(_ context.Context, in []events.Message) []Outcome { return make([]Outcome, len(in)) })
	publish(t, c, schemas.Prompts, promptList("r", 0, 5)...)
	settled(t, c, other)
	rests := func(w []Worker) bool {
		return slices.ContainsFunc(w, func(w Worker) bool { return w.State == StatePaused && w.Detail == "by a test" })
	}
	workersAre(t, c, "r", rests)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	stop = start(t, c, generator("r", 2), answer) // it starts paused
	workersAre(t, c, "r", rests)
	if got := stored(t, c, schemas.Pairs, "r"); len(got) != 0 {
		t.Fatalf("%d pairs by a paused stage", len(got))
	}
	pauses, err := c.Pauses(ctx, "r")
	if err != nil || len(pauses) != 1 || pauses[0].Stage != "generator" || pauses[0].By != "a test" {
		t.Errorf("%+v, %v", pauses, err)
	}
	if err := c.Resume(ctx, "r", "generator"); err != nil {
		t.Fatal(err)
	}
	await(t, c, schemas.Pairs, "r", 5)
	// paused while it waits for input, by the run
	workersAre(t, c, "r", func(w []Worker) bool { return len(w) == 2 && w[0].State == StateIdle && w[1].State == StateIdle })
	if err := c.Pause(ctx, "r", "", "a test"); err != nil {
		t.Fatal(err)
	}
	p := c.Announce(ctx, "r", "watcher")
	defer p.Close()
	if by, paused := p.Paused(); !paused || by.By != "a test" || by.Stage != "" {
		t.Errorf("a worker of a paused run: %+v, %v", by, paused)
	}
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	if err := p.Hold(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Hold ended with %v", err)
	}
	if err := c.Resume(ctx, "r", ""); err != nil {
		t.Fatal(err)
	}
	if err := p.Hold(ctx); err != nil {
		t.Error(err)
	}
	publish(t, c, schemas.Prompts, promptList("r", 1, 5)...)
	await(t, c, schemas.Pairs, "r", 10)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// When the server loses a worker's heartbeat, the worker keeps working and sends it again.
func TestHeartbeatIsNotNeeded(t *testing.T) {
	c := openQuick(t)
	ctx := testContext(t)
	start(t, c, generator("r", 1), answer)
	workersAre(t, c, "r", oneIs(StateIdle))
	for _, bucket := range []string{heartbeatBucket, pauseBucket} {
		if err := c.js.DeleteKeyValue(ctx, bucket); err != nil {
			t.Fatal(err)
		}
	}
	publish(t, c, schemas.Prompts, promptList("r", 0, 3)...)
	await(t, c, schemas.Pairs, "r", 3)
	workersAre(t, c, "r", func(w []Worker) bool { return oneIs(StateIdle)(w) && w[0].Done == 3 })
}
