package streams

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// letterFor is the dead letter of a prompt, as a stage would write it.
func letterFor(p *events.Prompt, seq uint64, reason string) *events.DeadLetter {
	return &events.DeadLetter{
		Schema: 1, Run: p.GetRun(), Iteration: p.GetIteration(), Stage: "generator", Reason: reason,
		Stream: StreamName(schemas.Prompts), Sequence: seq, PairId: p.GetPairId(),
		Subject: schemas.Subject(schemas.Prompts, p.GetRun(), p.GetIteration()),
	}
}

func TestCollectWaitsUntilComplete(t *testing.T) {
	c := openQuick(t)
	const n = 30
	// The iteration is closed and its pairs come in another order; others' messages are in between.
	publish(t, c, schemas.Control, &events.Control{Schema: 1, Run: "r", Iteration: 2, Kind: "spec"})
	publish(t, c, schemas.Scored, scoredOf(prompt("r", 1, 99)), scoredOf(prompt("other", 2, 99)))
	for i := n - 1; i > 0; i-- {
		publish(t, c, schemas.Scored, scoredOf(prompt("r", 2, i)))
	}
	haves := []int{}
	got, err := c.Collect(testContext(t), schemas.Scored, "r", 2, func(have, total int) {
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
		if promptOf(m).GetPosition() != uint64(i) {
			t.Fatalf("place %d holds position %d", i, promptOf(m).GetPosition())
		}
	}
	if len(got.Messages) != n || got.Dead != 0 || got.First != 3 || got.Last != n+2 {
		t.Errorf("%d messages, %d dead, %d to %d", len(got.Messages), got.Dead, got.First, got.Last)
	}
	if !slices.IsSorted(haves) || haves[len(haves)-1] != n {
		t.Errorf("progress %v", haves)
	}
}

// Duplicates count once, dead letters count, a letter whose pair came through all the same does not.
func TestCollectCountsPairs(t *testing.T) {
	c := openQuick(t)
	const n = 6
	publish(t, c, schemas.Control, closedAt("r", 0, n))
	for i := range 4 {
		publish(t, c, schemas.Scored, scoredOf(prompt("r", 0, i)))
	}
	again := marshal(t, scoredOf(prompt("r", 0, 1)))
	if err := c.send(testContext(t), schemas.Scored, sealedAs("ldalign.scored.r.0", "forgotten", again)); err != nil {
		t.Fatal(err)
	}
	publish(t, c, schemas.DeadLetters,
		letterFor(prompt("r", 0, 2), 3, "poison"), // scored all the same
		letterFor(prompt("r", 0, 4), 5, "too_long"),
		letterFor(prompt("r", 0, 5), 6, "empty"),
		letterFor(prompt("r", 0, 5), 7, "empty"), // the same pair, another delivery
		letterFor(prompt("r", 1, 0), 8, "empty"), // another iteration
	)
	got, err := c.Collect(testContext(t), schemas.Scored, "r", 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Messages) != 4 || got.Dead != 2 {
		t.Errorf("%d messages, %d dead, want 4 and 2", len(got.Messages), got.Dead)
	}
}

// A letter that is redriven after it was counted counts no longer.
func TestCollectWaitsForWhatIsRedriven(t *testing.T) {
	c := openQuick(t)
	late := prompt("r", 0, 1)
	letter := letterFor(late, 1, "poison")
	letter.Original = marshal(t, late)
	publish(t, c, schemas.Control, closedAt("r", 0, 2))
	publish(t, c, schemas.Scored, scoredOf(prompt("r", 0, 0)))
	publish(t, c, schemas.DeadLetters, letter)
	redriven := false
	got, err := c.Collect(testContext(t), schemas.Scored, "r", 0, func(have, total int) {
		switch {
		case have == 2 && total == 2 && !redriven:
			redriven = true
			if err := c.Redrive(testContext(t), 1); err != nil {
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
	_, err := c.Collect(testContext(t), schemas.Scored, "r", 0, func(have, total int) {
		if have == 2 && total == 0 {
			publish(t, c, schemas.Control, closedAt("r", 0, 1))
		}
	})
	if err == nil || !strings.Contains(err.Error(), "2 pairs where 1 were announced") {
		t.Errorf("got %v, want an error with the numbers", err)
	}
	if _, err := c.Collect(testContext(t), schemas.Control, "r", 0, nil); err == nil {
		t.Error("control messages were collected")
	}
}

// An iteration of nothing is complete when it is closed.
func TestCollectOfNothing(t *testing.T) {
	c := openQuick(t)
	publish(t, c, schemas.Control, closedAt("r", 0, 0))
	got, err := c.Collect(testContext(t), schemas.Scored, "r", 0, nil)
	if diff := gocmp.Diff(Collected{}, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

// A dead letter is listed, shown and redriven; its pair is in flight again, comes through, and counts once.
func TestRedrive(t *testing.T) {
	c := openQuick(t)
	ctx := testContext(t)
	const n = 5
	publish(t, c, schemas.Prompts, promptList("r", 0, n)...)
	publish(t, c, schemas.Control, closedAt("r", 0, n))
	strict := generator("r", 2)
	stop := start(t, c, strict, func(ctx context.Context, in []events.Message) []Outcome {
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
	dead, err := c.Collect(ctx, schemas.Pairs, "r", 0, nil)
	if err != nil || len(dead.Messages) != 3 || dead.Dead != 2 {
		t.Fatalf("%d messages, %d dead, %v, want 3 and 2", len(dead.Messages), dead.Dead, err)
	}
	letters, err := c.DeadLetters(ctx, "r")
	if err != nil || len(letters) != 2 {
		t.Fatalf("%d letters, %v", len(letters), err)
	}
	shown, err := c.DeadLetter(ctx, letters[0].Seq)
	if diff := gocmp.Diff(letters[0].DeadLetter, shown.DeadLetter, protocmp()); err != nil || diff != "" {
		t.Errorf("%v (-listed +shown):\n%s", err, diff)
	}
	if err := c.Redrive(ctx, letters[0].Seq); err != nil {
		t.Fatal(err)
	}
	if err := c.Redrive(ctx, letters[0].Seq); !errors.Is(err, ErrNotFound) {
		t.Errorf("redriven twice: got %v, want ErrNotFound", err)
	}
	audit := func() Balance {
		t.Helper()
		balances, err := c.Audit(ctx, "r")
		if err != nil || len(balances) != 1 {
			t.Fatalf("%d balances, %v", len(balances), err)
		}
		return balances[0]
	}
	b := audit()
	if b.DeadTotal() != 1 || len(b.InFlight) != 4 || b.Duplicates != 0 {
		t.Errorf("while it is in flight: %+v", b)
	}
	// It is collected when it has come through, not before.
	restarted := false
	got, err := c.Collect(ctx, schemas.Pairs, "r", 0, func(have, total int) {
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
		publish(t, c, schemas.Scored, scoredOf(promptOf(m)))
	}
	want := Balance{
		Closed: true, Total: n, Prompts: n, Pairs: 4, Encoded: 4, Scored: 4, Dead: []ReasonCount{{"too_long", 1}},
	}
	b = audit()
	if diff := gocmp.Diff(want, b); diff != "" || !b.Complete() {
		t.Errorf("complete %v (-want +got):\n%s", b.Complete(), diff)
	}
}

// A dead letter whose message dies again has a new letter; the old one does not count beside it.
func TestRedrivenMessageMayDieAgain(t *testing.T) {
	c := openQuick(t)
	publish(t, c, schemas.Prompts, prompt("r", 0, 0))
	start(t, c, generator("r", 1), func(context.Context, []events.Message) []Outcome {
		return []Outcome{{Err: &schemas.Reject{Reason: schemas.ReasonEmpty, Err: errFlaky}}}
	})
	first := await(t, c, schemas.DeadLetters, "r", 1)[0]
	if err := c.Redrive(testContext(t), first.Seq); err != nil {
		t.Fatal(err)
	}
	second := await(t, c, schemas.DeadLetters, "r", 1)[0]
	if second.Seq == first.Seq || second.Message.(*events.DeadLetter).GetSequence() != 2 {
		t.Errorf("second letter %v at %d", second.Message, second.Seq)
	}
	settled(t, c, generator("r", 1))
	balances, err := c.Audit(testContext(t), "r")
	if err != nil || balances[0].DeadTotal() != 1 || len(balances[0].InFlight) != 0 {
		t.Errorf("%+v, %v", balances, err)
	}
}

// Whatever happened to the pairs of a run, the ledger balances, names what is in flight, and equals the model.
func TestAuditProperty(t *testing.T) {
	c := openIn(t, t.TempDir(), Limits{Sync: time.Minute})
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		name := fmt.Sprintf("r%d", run)
		kinds := pairKinds()
		want := map[uint32]*Balance{}
		batch := map[schemas.Kind][]events.Message{}
		var again []*events.Prompt
		for iteration := range uint32(rapid.IntRange(1, 2).Draw(rt, "iterations")) {
			n := rapid.IntRange(1, 6).Draw(rt, "pairs")
			b := &Balance{Iteration: iteration, Prompts: n}
			if b.Closed = rapid.Bool().Draw(rt, "closed"); b.Closed {
				b.Total = n
				batch[schemas.Control] = append(batch[schemas.Control], closedAt(name, iteration, n))
			}
			reasons := map[string]int{}
			for i := range n {
				p := prompt(name, iteration, i)
				reached := rapid.IntRange(0, 3).Draw(rt, "reached")
				for _, kind := range kinds[:reached+1] {
					batch[kind] = append(batch[kind], at(kind, p))
				}
				b.Pairs += min(reached, 1)
				b.Encoded += min(max(reached-1, 0), 1)
				b.Scored += max(reached-2, 0)
				reason := rapid.SampledFrom([]string{"", "", "poison", "empty"}).Draw(rt, "reason")
				if reason != "" {
					l := letterFor(p, uint64(10*iteration)+uint64(i), reason)
					batch[schemas.DeadLetters] = append(batch[schemas.DeadLetters], l)
				}
				switch {
				case reached == 3:
				case reason != "":
					reasons[reason]++
				default:
					b.InFlight = append(b.InFlight, Flight{p.GetPairId(), kinds[reached]})
				}
				if rapid.Bool().Draw(rt, "duplicate") {
					again = append(again, p)
					b.Duplicates++
				}
			}
			for _, reason := range slices.Sorted(maps.Keys(reasons)) {
				b.Dead = append(b.Dead, ReasonCount{reason, reasons[reason]})
			}
			slices.SortFunc(b.InFlight, func(a, b Flight) int { return cmp.Compare(a.PairID, b.PairID) })
			want[iteration] = b
		}
		for kind, msgs := range batch {
			publish(t, c, kind, msgs...)
		}
		for i, p := range again { // past the window within which the stream knows its ids
			id := fmt.Sprintf("late%d:%s:%s", i, name, p.GetPairId())
			err := c.send(testContext(t), schemas.Prompts,
				sealedAs(schemas.Subject(schemas.Prompts, name, p.GetIteration()), id, marshal(t, p)))
			if err != nil {
				rt.Fatal(err)
			}
		}
		got, err := c.Audit(testContext(t), name)
		if err != nil {
			rt.Fatal(err)
		}
		if len(got) != len(want) {
			rt.Fatalf("%d iterations, want %d", len(got), len(want))
		}
		for _, b := range got {
			if diff := gocmp.Diff(*want[b.Iteration], b); diff != "" {
				rt.Errorf("iteration %d (-want +got):\n%s", b.Iteration, diff)
			}
			if b.Prompts+len(b.Strays) != b.Scored+b.DeadTotal()+len(b.InFlight) {
				rt.Errorf("iteration %d does not balance: %+v", b.Iteration, b)
			}
		}
	})
}

// at is the form in which a pair travels on a stream.
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

func TestAuditNamesStraysAndStrangers(t *testing.T) {
	c := openQuick(t)
	publish(t, c, schemas.Prompts, prompt("r", 0, 0))
	publish(t, c, schemas.Scored, scoredOf(prompt("r", 0, 0)), scoredOf(prompt("r", 0, 1)))
	nameless := letterFor(prompt("r", 0, 9), 9, "decode")
	nameless.PairId = ""
	publish(t, c, schemas.DeadLetters, nameless)
	got, err := c.Audit(testContext(t), "r")
	want := []Balance{{Prompts: 1, Scored: 2, Strays: []string{prompt("r", 0, 1).GetPairId()}, Unnamed: 1}}
	if diff := gocmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if none, err := c.Audit(testContext(t), "nobody"); err != nil || len(none) != 0 {
		t.Errorf("a run that does not exist: %v, %v", none, err)
	}
}
