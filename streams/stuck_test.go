package streams

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// A worker that hangs says so, and another worker gets its messages. When the first one continues in the end, its results are
// stored once, and it works on.
func TestStuckWorker(t *testing.T) {
	limits := durable
	limits.StuckAfter = limits.AckWait
	c := openIn(t, t.TempDir(), limits)
	const n = 6
	publish(t, c, schemas.Prompts, promptList("r", 0, n)...)
	hangs, goOn := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(goOn) })
	first := true
	s := generator("r", 3)
	start(t, c, s, func(ctx context.Context, in []events.Message) []Outcome {
		if first {
			first = false
			close(hangs)
			<-goOn
		}
		return answer(ctx, in)
	})
	t.Cleanup(release)
	select {
	case <-hangs:
	case <-testContext(t).Done():
		t.Fatal("the worker gets no messages")
	}
	start(t, c, s, answer)
	await(t, c, schemas.Pairs, "r", n)
	settled(t, c, s)
	isStuck := func(w Worker) bool { return w.State == StateStuck }
	workers := workersAre(t, c, "r", func(w []Worker) bool { return len(w) == 2 && slices.ContainsFunc(w, isStuck) })
	if w := workers[slices.IndexFunc(workers, isStuck)]; w.Detail != "no progress for 300ms on 3 prompts, which other workers now get" {
		t.Errorf("%+v", w)
	}
	release()
	workersAre(t, c, "r", func(w []Worker) bool { return len(w) == 2 && !slices.ContainsFunc(w, isStuck) })
	publish(t, c, schemas.Prompts, promptList("r", 1, n)...)
	await(t, c, schemas.Pairs, "r", 2*n)
	settled(t, c, s)
	if got := len(stored(t, c, schemas.Pairs, "r")); got != 2*n {
		t.Errorf("%d pairs, want %d", got, 2*n)
	}
	if letters := stored(t, c, schemas.DeadLetters, "r"); len(letters) != 0 {
		t.Errorf("%d dead letters, want none", len(letters))
	}
}

// What a heartbeat is told of and what Stage.Moves counts is progress.
func TestWatch(t *testing.T) {
	limits := quick
	limits.StuckAfter = 3 * time.Second
	c := openIn(t, t.TempDir(), limits)
	heartbeat := c.Announce(testContext(t), "r", "generator")
	t.Cleanup(heartbeat.Close)
	var steps atomic.Uint64
	r := &runner{Conn: c, stage: Stage{In: schemas.Prompts, Moves: steps.Load}, heartbeat: heartbeat}
	moving := r.watch(time.Second)
	for i, beat := range []struct {
		progress func()
		want     bool
	}{
		{func() { heartbeat.Say(StateWorking, "") }, true},
		{func() {}, true},
		{func() {}, true},
		{func() { steps.Add(1) }, true},
		{func() {}, true},
		{func() {}, true},
		{func() {}, false}, // the third second without progress
		{func() {}, false},
		{heartbeat.Move, true},
		{func() { heartbeat.Did(1) }, true},
		{func() { heartbeat.Say(StateBackPressure, "the trainer is slow") }, true},
		{func() {}, true},
		{func() {}, true},
		{func() {}, false},
	} {
		beat.progress()
		if got := moving(3); got != beat.want {
			t.Errorf("beat %d: moving is %v, want %v", i, got, beat.want)
		}
	}
}
