package streams

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// behaviour is what happens in the first tries of a message.
type behaviour struct {
	kind  string // of one try
	times int    // so often; then it succeeds
}

// fate is what the log must hold of a message in the end: a pair, or a dead letter with this reason.
func (b behaviour) fate(l Limits) string {
	switch {
	case b.kind == "reject":
		return schemas.ReasonInvalid
	case b.kind == "fail" && b.times >= l.MaxDeliver:
		return schemas.ReasonPoison
	}
	return "pair"
}

// script makes each message of a run behave as it was drawn, in every worker.
type script struct {
	mu    sync.Mutex
	acts  map[string]behaviour
	tries map[string]int
}

func (s *script) process(_ context.Context, in []events.Message) []Outcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Outcome, len(in))
	for i, m := range in {
		b := s.acts[m.ID()]
		s.tries[m.ID()]++
		if s.tries[m.ID()] > b.times {
			out[i].Out = []Emit{{schemas.Pairs, pairOf(m.(*events.Prompt))}}
			continue
		}
		switch b.kind {
		case "reject":
			s.tries[m.ID()] = 0 // it stays so
			out[i].Err = &schemas.Reject{Reason: schemas.ReasonInvalid, Err: errors.New("no good")}
		case "unable":
			out[i].Err = &schemas.Unavailable{Err: errors.New("the store is away")}
		case "panic":
			panic("a bug that passes")
		default:
			if b.times >= quick.MaxDeliver {
				s.tries[m.ID()] = 0 // a batch that fails as a whole is tried once more than is counted
			}
			out[i].Err = errFlaky
		}
	}
	return out
}

// crash is a worker that dies between storing its outputs and acknowledging its inputs, or before either.
func crash(ctx context.Context, c *Conn, s *script, n int, stored bool) error {
	consumer, err := c.js.Consumer(ctx, StreamName(schemas.Prompts, "r"), "generator_r")
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return nil // no stage has run yet
	}
	if err != nil {
		return err
	}
	got, err := consumer.FetchNoWait(n)
	if err != nil {
		return err
	}
	var pairs []events.Message
	for msg := range got.Messages() {
		m, err := open(msg.Subject(), msg.Data())
		if err != nil {
			return err
		}
		s.mu.Lock()
		well := s.acts[m.ID()].fate(quick) == "pair"
		s.mu.Unlock()
		if well {
			pairs = append(pairs, pairOf(m.(*events.Prompt)))
		}
	}
	err = got.Error()
	if errors.Is(err, nats.ErrNoResponders) || err == nil && !stored {
		return nil // a stage is about to make its consumer; or nothing gets into the log
	}
	return errors.Join(err, c.Publish(ctx, schemas.Pairs, pairs...))
}

// TestRunnerModel draws messages that fail, panic, are rejected or find the stage unable to work, and workers that start, end and
// die around their acknowledgements. In the end each message has the fate that the model predicts.
func TestRunnerModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		limits := quick
		limits.AckWait = durable.AckWait // for what crash leaves
		c, err := Open(testContext(t), Options{Dir: t.TempDir(), Limits: limits, Log: testLog(t).Level(5)})
		if err != nil {
			rt.Fatal(err)
		}
		defer c.Close()
		if err := c.Declare(testContext(t), "r", c.limits); err != nil {
			rt.Fatal(err)
		}
		s := &script{acts: map[string]behaviour{}, tries: map[string]int{}}
		want := map[string]string{}
		var workers []func() error
		work := func(batch int) {
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan error, 1)
			stage := generator("r", batch)
			go func() { ended <- c.RunStage(ctx, stage, s.process) }()
			workers = append(workers, func() error { cancel(); return <-ended })
		}
		defer func() {
			for _, stop := range workers {
				if err := stop(); err != nil {
					rt.Errorf("RunStage: %v", err)
				}
			}
		}()
		published := 0
		for range rapid.IntRange(3, 10).Draw(rt, "actions") {
			switch rapid.SampledFrom([]string{"publish", "publish", "join", "leave", "crash"}).Draw(rt, "action") {
			case "publish":
				for range rapid.IntRange(1, 6).Draw(rt, "messages") {
					p := prompt("r", 0, published)
					published++
					b := behaviour{
						kind:  rapid.SampledFrom([]string{"well", "well", "fail", "panic", "reject", "unable"}).Draw(rt, "kind"),
						times: rapid.SampledFrom([]int{1, quick.MaxDeliver - 1}).Draw(rt, "times"),
					}
					if b.kind == "well" {
						b.times = 0
					} else if b.kind == "fail" && rapid.Bool().Draw(rt, "for good") {
						b.times = 1000
					}
					s.mu.Lock()
					s.acts[p.ID()] = b
					s.mu.Unlock()
					want[p.ID()] = b.fate(quick)
					if err := c.Publish(testContext(t), schemas.Prompts, p, p); err != nil { // twice: it is stored once
						rt.Fatal(err)
					}
				}
			case "join":
				if len(workers) < 3 {
					work(rapid.IntRange(1, 8).Draw(rt, "batch"))
				}
			case "leave":
				if n := len(workers); n > 0 {
					if err := workers[n-1](); err != nil {
						rt.Fatalf("RunStage: %v", err)
					}
					workers = workers[:n-1]
				}
			case "crash":
				n, stored := rapid.IntRange(1, 4).Draw(rt, "held"), rapid.Bool().Draw(rt, "stored")
				if err := crash(testContext(t), c, s, n, stored); err != nil {
					rt.Fatal(err)
				}
			}
		}
		work(8)
		got := fates(rt, t, c, len(want))
		if diff := cmp.Diff(want, got); diff != "" {
			rt.Fatalf("fates (-model +log):\n%s", diff)
		}
	})
}

// fates waits until n messages have a fate, and then a little longer for a second fate that must not come.
func fates(rt *rapid.T, t *testing.T, c *Conn, n int) map[string]string {
	got := map[string]string{}
	giveUp := time.Now().Add(testTimeout)
	for settled := 0; settled < 2; {
		clear(got)
		note := func(id, fate string) {
			if got[id] != "" {
				fate = fmt.Sprintf("%s and %s", got[id], fate)
			}
			got[id] = fate
		}
		for _, r := range stored(t, c, schemas.Pairs, "r") {
			note(r.Message.ID(), "pair")
		}
		for _, r := range stored(t, c, schemas.DeadLetters, "r") {
			letter := r.Message.(*events.DeadLetter)
			note(letter.GetPairId(), letter.GetReason())
		}
		if len(got) >= n {
			settled++
		}
		if time.Now().After(giveUp) {
			rt.Fatalf("%d of %d messages are settled", len(got), n)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return got
}
