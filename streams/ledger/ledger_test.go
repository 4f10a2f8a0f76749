package ledger

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
)

// letterFor returns the dead letter of a prompt, as a stage would write it.
func letterFor(p *events.Prompt, seq uint64, reason string) *events.DeadLetter {
	return &events.DeadLetter{
		Schema: 1, Run: p.GetRun(), Iteration: p.GetIteration(), Stage: "generator", Reason: reason,
		Stream: streams.StreamName(schemas.Prompts, "r"), Sequence: seq, PairId: p.GetPairId(),
		Subject: schemas.Subject(schemas.Prompts, p.GetRun(), p.GetIteration()),
	}
}

func TestCollectWaitsUntilComplete(t *testing.T) {
	c := openQuick(t)
	const n = 30
	// The iteration is closed and its pairs come in another order; others' messages are in between.
	publish(t, c, schemas.Control, &events.Control{Schema: 1, Run: "r", Iteration: 2, Kind: events.ControlSpec})
	publish(t, c, schemas.Scored, scoredOf(prompt("r", 1, 99)), scoredOf(prompt("other", 2, 99)))
	for i := n - 1; i > 0; i-- {
		publish(t, c, schemas.Scored, scoredOf(prompt("r", 2, i)))
	}
	haves := []int{}
	got, err := Collect(testContext(t), c, schemas.Scored, "r", 2, func(have, total int) {
		haves = append(haves, have)
		if have == n-1 && total == 0 {
			publish(t, c, schemas.Control, closedAt("r", 2, n))
		}
		if have == n-1 && total == n {
			publish(t, c, schemas.Scored, scoredOf(prompt("r", 2, 0)))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range got.Messages {
		if events.PromptOf(m).GetPosition() != uint64(i) {
			t.Fatalf("place %d holds position %d", i, events.PromptOf(m).GetPosition())
		}
	}
	if len(got.Messages) != n || got.Dead != 0 || got.First != 2 || got.Last != n+1 {
		t.Errorf("%d messages, %d dead, %d to %d", len(got.Messages), got.Dead, got.First, got.Last)
	}
	if !slices.IsSorted(haves) || haves[len(haves)-1] != n {
		t.Errorf("progress %v", haves)
	}
}

// Duplicates count once. Dead letters count, unless their pair has arrived.
func TestCollectCountsPairs(t *testing.T) {
	c := openQuick(t)
	const n = 6
	publish(t, c, schemas.Control, closedAt("r", 0, n))
	for i := range 4 {
		publish(t, c, schemas.Scored, scoredOf(prompt("r", 0, i)))
	}
	again := marshal(t, scoredOf(prompt("r", 0, 1)))
	foreign(t, c, schemas.Scored, "r", 0, "forgotten", again)
	publish(t, c, schemas.DeadLetters,
		letterFor(prompt("r", 0, 2), 3, "poison"), // scored despite its dead letter
		letterFor(prompt("r", 0, 4), 5, "too_long"),
		letterFor(prompt("r", 0, 5), 6, "empty"),
		letterFor(prompt("r", 0, 5), 7, "empty"), // the same pair, another delivery
		letterFor(prompt("r", 1, 0), 8, "empty"), // another iteration
	)
	got, err := Collect(testContext(t), c, schemas.Scored, "r", 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Messages) != 4 || got.Dead != 2 {
		t.Errorf("%d messages, %d dead, want 4 and 2", len(got.Messages), got.Dead)
	}
}

// A dead letter that is redriven after it was counted no longer counts.
func TestCollectWaitsForWhatIsRedriven(t *testing.T) {
	c := openQuick(t)
	late := prompt("r", 0, 1)
	letter := letterFor(late, 1, "poison")
	letter.Original = marshal(t, late)
	publish(t, c, schemas.Control, closedAt("r", 0, 2))
	publish(t, c, schemas.Scored, scoredOf(prompt("r", 0, 0)))
	publish(t, c, schemas.DeadLetters, letter)
	redriven := false
	got, err := Collect(testContext(t), c, schemas.Scored, "r", 0, func(have, total int) {
		switch {
		case have == 2 && total == 2 && !redriven:
			redriven = true
			if err := Redrive(testContext(t), c, "r", 1); err != nil {
				t.Error(err)
			}
		case have == 1 && redriven:
			publish(t, c, schemas.Scored, scoredOf(late))
		}
	})
	if err != nil || len(got.Messages) != 2 || got.Dead != 0 {
		t.Errorf("%d messages, %d dead, %v, want 2 and 0", len(got.Messages), got.Dead, err)
	}
}

func TestCollectRefusesTooMany(t *testing.T) {
	c := openQuick(t)
	publish(t, c, schemas.Scored, scoredOf(prompt("r", 0, 0)), scoredOf(prompt("r", 0, 1)))
	_, err := Collect(testContext(t), c, schemas.Scored, "r", 0, func(have, total int) {
		if have == 2 && total == 0 {
			publish(t, c, schemas.Control, closedAt("r", 0, 1))
		}
	})
	if err == nil || !strings.Contains(err.Error(), "2 pairs arrived, but 1 were announced") {
		t.Errorf("got %v, want an error with the numbers", err)
	}
	if _, err := Collect(testContext(t), c, schemas.Control, "r", 0, nil); err == nil {
		t.Error("control messages were collected")
	}
}

// An iteration without pairs is complete when it is closed.
func TestCollectOfNothing(t *testing.T) {
	c := openQuick(t)
	publish(t, c, schemas.Control, closedAt("r", 0, 0))
	got, err := Collect(testContext(t), c, schemas.Scored, "r", 0, nil)
	if diff := gocmp.Diff(Collected{}, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

// A dead letter is listed, shown and redriven. Its pair is then in flight again, arrives, and counts once.
func TestRedrive(t *testing.T) {
	c := openQuick(t)
	ctx := testContext(t)
	const n = 5
	publish(t, c, schemas.Prompts, promptList("r", 0, n)...)
	publish(t, c, schemas.Control, closedAt("r", 0, n))
	strict := generator("r", 2)
	stop := start(t, c, strict, func(ctx context.Context, in []events.Message) []streams.Outcome {
		out := answer(ctx, in)
		for i, m := range in {
			if m.(*events.Prompt).GetPosition() >= 3 {
				out[i].Err = &schemas.Reject{Reason: schemas.ReasonTooLong, Err: errFlaky}
			}
		}
		return out
	})
	await(t, c, schemas.DeadLetters, "r", 2)
	settled(t, c, strict)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	dead, err := Collect(ctx, c, schemas.Pairs, "r", 0, nil)
	if err != nil || len(dead.Messages) != 3 || dead.Dead != 2 {
		t.Fatalf("%d messages, %d dead, %v, want 3 and 2", len(dead.Messages), dead.Dead, err)
	}
	letters, err := DeadLetters(ctx, c, "r")
	if err != nil || len(letters) != 2 {
		t.Fatalf("%d letters, %v", len(letters), err)
	}
	shown, err := DeadLetter(ctx, c, "r", letters[0].Seq)
	if diff := gocmp.Diff(letters[0].DeadLetter, shown.DeadLetter, protocmp()); err != nil || diff != "" {
		t.Errorf("%v (-listed +shown):\n%s", err, diff)
	}
	if err := Redrive(ctx, c, "r", letters[0].Seq); err != nil {
		t.Fatal(err)
	}
	if err := Redrive(ctx, c, "r", letters[0].Seq); !errors.Is(err, streams.ErrNotFound) {
		t.Errorf("redriven twice: got %v, want streams.ErrNotFound", err)
	}
	audit := func() Balance {
		t.Helper()
		balances, err := Audit(ctx, c, "r", scoredLedger)
		if err != nil || len(balances) != 1 {
			t.Fatalf("%d balances, %v", len(balances), err)
		}
		return balances[0]
	}
	b := audit()
	if b.DeadTotal() != 1 || b.InFlight != 4 || b.Duplicates != 0 {
		t.Errorf("while it is in flight: %+v", b)
	}
	// It is collected only after it has arrived.
	restarted := false
	got, err := Collect(ctx, c, schemas.Pairs, "r", 0, func(have, total int) {
		if have == n-1 && total == n && !restarted {
			restarted = true
			start(t, c, strict, answer)
		}
	})
	if err != nil || len(got.Messages) != 4 || got.Dead != 1 {
		t.Errorf("%d messages, %d dead, %v, want 4 and 1", len(got.Messages), got.Dead, err)
	}
	for _, m := range got.Messages {
		publish(t, c, schemas.Encoded, &events.Encoded{Schema: 1, Pair: m.(*events.Pair)})
		publish(t, c, schemas.Scored, scoredOf(events.PromptOf(m)))
	}
	want := Balance{
		Closed: true, Total: n, Prompts: n, Pairs: 4, Encoded: 4, Scored: 4, Ready: 4, Dead: []ReasonCount{{"too_long", 1}},
	}
	b = audit()
	if diff := gocmp.Diff(want, b); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A redriven message that becomes a dead letter again has a new letter, and the old one no longer counts.
func TestRedrivenMessageMayDieAgain(t *testing.T) {
	c := openQuick(t)
	publish(t, c, schemas.Prompts, prompt("r", 0, 0))
	start(t, c, generator("r", 1), func(context.Context, []events.Message) []streams.Outcome {
		return []streams.Outcome{{Err: &schemas.Reject{Reason: schemas.ReasonEmpty, Err: errFlaky}}}
	})
	first := await(t, c, schemas.DeadLetters, "r", 1)[0]
	if err := Redrive(testContext(t), c, "r", first.Seq); err != nil {
		t.Fatal(err)
	}
	second := await(t, c, schemas.DeadLetters, "r", 1)[0]
	if second.Seq == first.Seq || second.Message.(*events.DeadLetter).GetSequence() != 2 {
		t.Errorf("second letter %v at %d", second.Message, second.Seq)
	}
	settled(t, c, generator("r", 1))
	balances, err := Audit(testContext(t), c, "r", scoredLedger)
	if err != nil || balances[0].DeadTotal() != 1 || balances[0].InFlight != 0 {
		t.Errorf("%+v, %v", balances, err)
	}
}

// Dead letters of messages of another program do not count as pairs: the iteration waits for its own pairs.
func TestCollectWaitsForThePairsThatAreAskedFor(t *testing.T) {
	const n = 3
	for name, foreign := range map[string]func(t *testing.T, c *streams.Conn){
		"a pair of its own": func(t *testing.T, c *streams.Conn) {
			publish(t, c, schemas.DeadLetters, letterFor(prompt("r", 0, 99), 1, "invalid"))
		},
		"bytes among the prompts": func(t *testing.T, c *streams.Conn) {
			put(t, c, schemas.Prompts, 99, []byte("\xff"))
			publish(t, c, schemas.DeadLetters, letterFor(prompt("r", 0, 99), n+1, "decode"))
		},
		"more letters than pairs": func(t *testing.T, c *streams.Conn) {
			for i := range uint64(n) {
				publish(t, c, schemas.DeadLetters, letterFor(prompt("r", 0, 90+int(i)), 1+i, "invalid"))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := openQuick(t)
			publish(t, c, schemas.Prompts, promptList("r", 0, n)...)
			foreign(t, c)
			publish(t, c, schemas.Scored, scoredOf(prompt("r", 0, 0)), scoredOf(prompt("r", 0, 1)))
			closed, last := false, false
			got, err := Collect(testContext(t), c, schemas.Scored, "r", 0, func(have, total int) {
				switch {
				case total == 0 && have > n-1 && !closed:
					closed = true
					publish(t, c, schemas.Control, closedAt("r", 0, n))
				case total > 0 && have < total && !last: // it has read the log, and waits
					last = true
					publish(t, c, schemas.Scored, scoredOf(prompt("r", 0, 2)))
				}
			})
			if err != nil || len(got.Messages) != n {
				t.Errorf("%d messages, %d dead, %v, want %d messages", len(got.Messages), got.Dead, err, n)
			}
		})
	}
}

// The dead letter of a message that this program has not published names no pair, whatever the message says.
func TestLetterOfAForeignMessageNamesNoPair(t *testing.T) {
	c := openQuick(t)
	foreign(t, c, schemas.Prompts, "r", 0, "", marshal(t, prompt("r", 0, 7)))
	publish(t, c, schemas.Prompts, prompt("r", 0, 0))
	start(t, c, generator("r", 2), func(_ context.Context, in []events.Message) []streams.Outcome {
		out := make([]streams.Outcome, len(in))
		for i := range out {
			out[i].Err = &schemas.Reject{Reason: schemas.ReasonInvalid, Err: errFlaky}
		}
		return out
	})
	var pairs []string
	for _, l := range await(t, c, schemas.DeadLetters, "r", 2) {
		pairs = append(pairs, l.Message.(*events.DeadLetter).GetPairId())
	}
	if want := []string{"", pairID(0)}; !slices.Equal(pairs, want) {
		t.Errorf("letters of the pairs %q, want %q", pairs, want)
	}
}
