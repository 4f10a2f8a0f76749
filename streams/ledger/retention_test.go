package ledger

import (
	"errors"
	"strings"
	"testing"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
)

// An audit counts the messages that retention has removed separately, and does not report holes. Reading the iteration as a
// source fails. Other iterations, other runs and dead letters stay.
func TestExpire(t *testing.T) {
	dir := t.TempDir()
	c := openIn(t, dir, quick)
	ctx := testContext(t)
	const n = 4
	var records []Record
	for i := range uint32(2) {
		r := Record{Done: true, Known: true}
		for k := range n {
			p := prompt("r", i, k)
			publish(t, c, schemas.Prompts, p, prompt("other", i, k))
			publish(t, c, schemas.Pairs, pairOf(p))
			if k == 0 {
				publish(t, c, schemas.DeadLetters, letterFor(p, uint64(i), schemas.ReasonTooLong))
				continue
			}
			publish(t, c, schemas.Encoded, at(schemas.Encoded, p))
			publish(t, c, schemas.Scored, scoredOf(p))
			r.Pairs = append(r.Pairs, p.GetPairId())
		}
		publish(t, c, schemas.Control, closedAt("r", i, n))
		records = append(records, r)
	}
	source, err := Survey(ctx, c, schemas.Scored, "r", 0, 2)
	if err != nil {
		t.Fatal(err)
	}

	// messages that a stage has not settled count as unsettled
	s := generator("r", n)
	if ok, err := Settled(ctx, c, schemas.Prompts, "r", 0); err != nil || !ok {
		t.Errorf("without a stage: %v, %v", ok, err)
	}
	if err := c.SettleUpTo(ctx, s.Name, s.In, s.Run, 0); err != nil {
		t.Fatal(err)
	}
	if ok, err := Settled(ctx, c, schemas.Prompts, "r", 0); err != nil || ok {
		t.Errorf("before its stage begins: %v, %v", ok, err)
	}
	stop := start(t, c, s, answer)
	settled(t, c, s)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if ok, err := Settled(ctx, c, schemas.Prompts, "r", 1); err != nil || !ok {
		t.Errorf("after its stage: %v, %v", ok, err)
	}

	// all kinds except one that is still read
	for again := range 2 { // repeated it removes nothing
		got, err := Expire(ctx, c, "r", 0, []schemas.Kind{schemas.Prompts, schemas.Encoded, schemas.Scored}, "a test")
		if err != nil || got != uint64((1-again)*(n+2*(n-1))) {
			t.Fatalf("removed %d, %v", got, err)
		}
	}
	if counts, err := Counts(ctx, c, "r"); err != nil || counts[0].Iteration != 0 || counts[0].Pairs != n {
		t.Errorf("not all %d pairs are left: %+v, %v", n, counts, err)
	}
	check := func(c *streams.Conn) {
		t.Helper()
		audits, err := Audit(ctx, c, "r", ledgerOf(records...))
		if err != nil || len(audits) != 2 {
			t.Fatalf("%+v, %v", audits, err)
		}
		for i, b := range audits {
			if !b.Balances() || b.Trained != n-1 || b.DeadTotal() != 1 || b.Total != n || b.Prompts+b.Expired != n ||
				(b.Expired == n) != (i == 0) || b.Lost+b.InFlight+b.Ready > 0 {
				t.Errorf("iteration %d: %+v", i, b)
			}
		}
	}
	check(c)
	if _, err := Expire(ctx, c, "r", 0, schemas.PairKinds(), "a test"); err != nil {
		t.Fatal(err)
	}
	check(c)

	for name, err := range map[string]error{
		"survey": func() error { _, err := Survey(ctx, c, schemas.Scored, "r", 0, 2); return err }(),
		"recall": func() error { _, err := Recall(ctx, c, source, "again", 0, n-1, nil); return err }(),
	} {
		if !errors.Is(err, streams.ErrIncomplete) || !strings.Contains(err.Error(), "its retention has removed") ||
			!strings.Contains(err.Error(), "(a test)") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := Recall(ctx, c, source, "again", 1, n-1, nil); err != nil || len(got.Messages) != n-1 {
		t.Errorf("iteration 1: %d messages, %v", len(got.Messages), err)
	}
	if got := stored(t, c, schemas.Prompts, "other"); len(got) != 2*n {
		t.Errorf("the other run has %d prompts", len(got))
	}
	counts, err := Counts(ctx, c, "r")
	if err != nil || len(counts) != 2 || !counts[0].Expired || counts[1].Expired || counts[0].Total != n || counts[0].Pairs != 0 {
		t.Errorf("%+v, %v", counts, err)
	}
	if _, err := Expire(ctx, c, "r", 0, []schemas.Kind{schemas.Control}, "a test"); err == nil {
		t.Error("control messages were removed")
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	check(openIn(t, dir, quick))
}
