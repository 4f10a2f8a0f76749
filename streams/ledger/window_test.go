package ledger

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
)

// forgetful are limits with the shortest time for which a server can remember ids.
var forgetful = func() streams.Limits {
	l := quick
	l.DedupWindow = 100 * time.Millisecond
	return l
}()

// wrongLastID is the server's answer to a message whose expected last id is not the stream's last id.
const wrongLastID jetstream.ErrorCode = 10070

// forgotten waits until run r's stream of a kind has forgotten the ids of its messages. It publishes the newest id with a wrong
// expected last id, so that nothing is stored: the server answers that it is a duplicate, or, once forgotten, wrongLastID.
func forgotten(t *testing.T, c *streams.Conn, kind schemas.Kind) {
	t.Helper()
	ctx := testContext(t)
	newest, err := c.Newest(ctx, kind, "r", streams.AllIterations)
	if err != nil {
		t.Fatal(err)
	}
	js := raw(t, c)
	for {
		_, err := js.Publish(ctx, newest.Subject, nil, jetstream.WithMsgID(newest.Key()), jetstream.WithExpectLastMsgID("never"))
		if err != nil {
			if api := new(jetstream.APIError); !errors.As(err, &api) || api.ErrorCode != wrongLastID {
				t.Fatal(err)
			}
			return
		}
		if !pause(ctx, 10*time.Millisecond) {
			t.Fatalf("the stream of %s still knows its ids", kind)
		}
	}
}

// distanced returns the output of the distance stage for an encoded pair.
func distanced(_ context.Context, in []events.Message) []streams.Outcome {
	out := make([]streams.Outcome, len(in))
	for i, m := range in {
		out[i].Out = []streams.Emit{{Kind: schemas.Scored, Msg: scoredOf(events.PromptOf(m))}}
	}
	return out
}

// Exactly-once reading does not depend on the deduplication window. Pairs are stored again on all four streams, some twice, at
// various places, while stages work and afterwards, and every reader still gets each pair once.
func TestWhatIsStoredAgainCountsOnce(t *testing.T) {
	ctx := testContext(t)
	c := openIn(t, t.TempDir(), forgetful)
	const n = 40
	draw := rand.New(rand.NewPCG(1, 2))
	again := func(kind schemas.Kind, times, below int) {
		forgotten(t, c, kind)
		for range times {
			publish(t, c, kind, at(kind, prompt("r", 0, draw.IntN(below))))
		}
	}
	// half of the prompts are published, answered, and published again before the others
	publish(t, c, schemas.Prompts, promptList("r", 0, n/2)...)
	chain := []streams.Stage{generator("r", 3), {Name: "encoder", In: schemas.Pairs, Run: "r"}, {Name: "distance", In: schemas.Encoded, Run: "r"}}
	for i, work := range []streams.Process{answer, encoded, distanced} {
		start(t, c, chain[i], work)
	}
	await(t, c, schemas.Scored, "r", n/2)
	for range 2 {
		for _, kind := range schemas.PairKinds() {
			again(kind, 6, n/2)
		}
	}
	publish(t, c, schemas.Prompts, promptList("r", 0, n)...)
	publish(t, c, schemas.Control, closedAt("r", 0, n))
	var streamed []string
	err := Arrivals(ctx, c, schemas.Scored, "r", 0, func(a Arrival) error {
		if a.Message != nil {
			streamed = append(streamed, a.Message.ID())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	chosen, err := Survey(ctx, c, schemas.Scored, "r", 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range schemas.PairKinds() {
		again(kind, 6, n)
	}
	for _, s := range chain {
		settled(t, c, s)
	}
	for _, kind := range schemas.PairKinds() {
		if got := len(stored(t, c, kind, "r")); got <= n {
			t.Errorf("%d %s are stored of %d pairs: nothing was stored again, this test shows nothing", got, kind, n)
		}
	}

	var want []string
	for i := range n {
		want = append(want, pairID(i))
	}
	same := func(reader string, got []string) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", reader, diff)
		}
	}
	ids := func(got Collected, err error) []string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, m := range got.Messages {
			out = append(out, m.ID())
		}
		return out
	}
	same("collect", ids(Collect(ctx, c, schemas.Scored, "r", 0, nil)))
	same("recall", ids(Recall(ctx, c, chosen, "again", 0, n, nil)))
	if count, err := CountIn(ctx, c, chosen, 0); err != nil || count != n {
		t.Errorf("count %d, %v", count, err)
	}
	if after, err := Survey(ctx, c, schemas.Scored, "r", 0, 1); err != nil || after != chosen {
		t.Errorf("the survey changes by what is stored again: %+v, before %+v, %v", after, chosen, err)
	}
	seen := map[string]bool{}
	for _, id := range streamed {
		if seen[id] {
			t.Errorf("%s arrived twice", id)
		}
		seen[id] = true
	}
	if len(seen) != n {
		t.Errorf("%d pairs arrived, want %d", len(seen), n)
	}
	record := Record{Done: true, Known: true, Pairs: want}
	if b := auditOne(t, c, ledgerOf(record)); !b.Balances() || b.Trained != n || b.Scored != n || b.Duplicates == 0 {
		t.Errorf("audit: %+v", b)
	}

	// a replay's stage processes each copy, and its output is the same pair
	replaying := streams.Stage{Name: "distance", In: schemas.Scored, Run: "replay", Iterations: []uint32{0}, Source: &chosen}
	start(t, c, replaying, distanced)
	settled(t, c, replaying)
	publish(t, c, schemas.Control, closedAt("replay", 0, n))
	same("a replay's stage", ids(Collect(ctx, c, schemas.Scored, "replay", 0, nil)))

	// a restore stores each message once; a second restore, after its log has forgotten the ids, stores nothing
	restored := openIn(t, t.TempDir(), forgetful)
	for range 2 {
		moveRun(t, c, restored, "r")
		for _, kind := range schemas.PairKinds() {
			forgotten(t, restored, kind)
			if got := len(stored(t, restored, kind, "r")); got != n {
				t.Errorf("%d %s restored, want %d", got, kind, n)
			}
		}
	}
	same("restored", ids(Collect(ctx, restored, schemas.Scored, "r", 0, nil)))
}

// After a stage has died with a part of one message's many outputs stored, another stores the rest, however much later.
func TestManyOutputsAreStoredOnce(t *testing.T) {
	c := openIn(t, t.TempDir(), forgetful)
	const n = 3 * 256
	prompts := promptList("r", 0, n)
	publish(t, c, schemas.Prompts, prompts[:n/2]...) // and then it died
	forgotten(t, c, schemas.Prompts)
	prompter := streams.Stage{Name: "prompter", In: schemas.Checkpoints, Run: "r"}
	start(t, c, prompter, streams.Many(func(_ context.Context, in []*events.Checkpoint) ([][]events.Message, []error) {
		out := make([][]events.Message, len(in))
		for i := range out {
			out[i] = append(promptList("r", 0, n), closedAt("r", 0, n))
		}
		return out, make([]error, len(in))
	}))
	publish(t, c, schemas.Checkpoints, &events.Checkpoint{Schema: events.Version, Run: "r", Kind: "policy", Digest: "d"})
	await(t, c, schemas.Control, "r", 1)
	settled(t, c, prompter)
	got := idsOf(stored(t, c, schemas.Prompts, "r"))
	if len(got) != n || got[0] != pairID(0) || got[n-1] != pairID(n-1) {
		t.Errorf("%d prompts are stored, want %d in their order", len(got), n)
	}
}

// A dead letter that was stored again is one letter with the number of the first copy, and is removed with its copies.
func TestLetterStoredAgain(t *testing.T) {
	ctx := testContext(t)
	c := openIn(t, t.TempDir(), forgetful)
	publish(t, c, schemas.Prompts, promptList("r", 0, 2)...)
	publish(t, c, schemas.Control, closedAt("r", 0, 2))
	put := func(times int) {
		for range times {
			for i := range 2 {
				letter := letterFor(prompt("r", 0, i), uint64(i+1), "poison")
				letter.Original = marshal(t, prompt("r", 0, i))
				publish(t, c, schemas.DeadLetters, letter)
			}
			forgotten(t, c, schemas.DeadLetters)
		}
	}
	put(3)
	letters, err := DeadLetters(ctx, c, "r")
	if err != nil || len(letters) != 2 || letters[0].Seq != 1 || len(letters[0].Copies) != 2 {
		t.Fatalf("letters %+v, %v", letters, err)
	}
	of, err := DeadLetter(ctx, c, "r", letters[0].Copies[1])
	if err != nil || of.Seq != 1 {
		t.Errorf("a copy is letter %d, %v, want 1", of.Seq, err)
	}
	if b := auditOne(t, c, scoredLedger); b.DeadTotal() != 2 || !b.Balances() {
		t.Errorf("audit: %+v", b)
	}
	if err := Redrive(ctx, c, "r", letters[0].Seq, letters[0].Copies...); err != nil {
		t.Fatal(err)
	}
	if b := auditOne(t, c, scoredLedger); b.DeadTotal() != 1 || b.InFlight != 1 {
		t.Errorf("redriven: %+v", b)
	}
	if err := Drop(ctx, c, "r", letters[1].Seq, "a test", letters[1].Copies...); err != nil {
		t.Fatal(err)
	}
	if left, err := DeadLetters(ctx, c, "r"); err != nil || len(left) != 1 || left[0].GetDroppedBy() == "" || len(left[0].Copies) > 0 {
		t.Errorf("left %+v, %v", left, err)
	}
	if _, err := DeadLetter(ctx, c, "r", letters[0].Seq); !errors.Is(err, streams.ErrNotFound) {
		t.Errorf("the redriven letter: got %v, want streams.ErrNotFound", err)
	}
}
