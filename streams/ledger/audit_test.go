package ledger

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
	"github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
)

// scoredLedger audits a run that trains on scored pairs, without a trainer's record.
var scoredLedger = AuditOptions{Iteration: streams.AllIterations, Source: schemas.Scored, Names: -1}

// ledgerOf is scoredLedger with the trainer's records, one for each iteration from 0.
func ledgerOf(records ...Record) AuditOptions {
	o := scoredLedger
	o.Record = func(_ context.Context, iteration uint32) (Record, error) {
		if int(iteration) >= len(records) {
			return Record{}, nil
		}
		return records[iteration], nil
	}
	for _, r := range records {
		if r.Done {
			o.Trained++
		}
	}
	return o
}

// Whatever happened to the pairs of a run, each has one fate, and the balances equal the model's.
func TestAuditProperty(t *testing.T) {
	c := openIn(t, t.TempDir(), streams.Limits{Sync: time.Minute})
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		name := fmt.Sprintf("r%d", run)
		kinds := schemas.PairKinds()
		var want []Balance
		var records []Record
		batch := map[schemas.Kind][]events.Message{}
		var again []*events.Prompt
		iterations := rapid.IntRange(1, 2).Draw(rt, "iterations")
		trainedOnes := rapid.IntRange(0, iterations).Draw(rt, "trained")
		for iteration := range uint32(iterations) {
			n := rapid.IntRange(1, 6).Draw(rt, "pairs")
			r := Record{Done: int(iteration) < trainedOnes, Known: int(iteration) < trainedOnes}
			b := Balance{Iteration: iteration, Prompts: n, Recorded: r.Known}
			if b.Closed = rapid.Bool().Draw(rt, "closed"); b.Closed {
				b.Total = n
				batch[schemas.Control] = append(batch[schemas.Control], closedAt(name, iteration, n))
			}
			dead, skipped := map[string]int{}, map[string]int{}
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
				skip := rapid.SampledFrom([]string{"", "", schemas.ReasonTooLong}).Draw(rt, "skip")
				switch {
				case reached == 3 && r.Done && skip == "":
					r.Pairs = append(r.Pairs, p.GetPairId())
					b.Trained++
				case reached == 3 && r.Done:
					r.Skipped = append(r.Skipped, Skip{p.GetPairId(), skip})
					skipped[skip]++
				case reached < 3 && reason != "":
					dead[reason]++
				case reached == 3:
					b.Ready++
				default:
					b.Flights = append(b.Flights, Flight{p.GetPairId(), kinds[reached]})
				}
				if rapid.Bool().Draw(rt, "duplicate") {
					again = append(again, p)
					b.Duplicates++
				}
			}
			b.Dead, b.Skipped, b.InFlight = reasonCounts(dead), reasonCounts(skipped), len(b.Flights)
			slices.SortFunc(b.Flights, func(a, b Flight) int { return cmp.Compare(a.PairID, b.PairID) })
			if r.Done && b.InFlight > 0 {
				f := Finding{Code: FoundUnfinished, Count: b.InFlight}
				for _, flight := range b.Flights {
					f.Pairs = append(f.Pairs, flight.PairID)
				}
				b.Findings = append(b.Findings, f)
			}
			want, records = append(want, b), append(records, r)
		}
		for _, kind := range slices.Sorted(maps.Keys(batch)) {
			publish(t, c, kind, batch[kind]...)
		}
		for i, p := range again { // as after the time in which the stream remembers ids
			id := fmt.Sprintf("prompts:%s#late%d", p.GetPairId(), i)
			foreign(t, c, schemas.Prompts, name, p.GetIteration(), id, marshal(t, p))
		}
		got, err := Audit(testContext(t), c, name, ledgerOf(records...))
		if err != nil {
			rt.Fatal(err)
		}
		if diff := gocmp.Diff(want, withoutTexts(got)); diff != "" {
			rt.Errorf("(-want +got):\n%s", diff)
		}
		for _, b := range got {
			if b.Prompts != b.Trained+b.DeadTotal()+b.SkippedTotal()+b.Ready+b.InFlight+b.Lost {
				rt.Errorf("iteration %d does not balance: %+v", b.Iteration, b)
			}
		}
	})
}

// withoutTexts removes the texts of findings.
func withoutTexts(balances []Balance) []Balance {
	for _, b := range balances {
		for i := range b.Findings {
			b.Findings[i].Text = ""
		}
	}
	return balances
}

// at returns the message of a kind for a pair.
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

// publishAll publishes the given pairs of iteration 0 on the given streams.
func publishAll(t *testing.T, c *streams.Conn, kinds []schemas.Kind, which ...int) {
	t.Helper()
	for _, kind := range kinds {
		for _, i := range which {
			publish(t, c, kind, at(kind, prompt("r", 0, i)))
		}
	}
}

func pairID(i int) string { return prompt("r", 0, i).GetPairId() }

// auditOne audits iteration 0 of the run r.
func auditOne(t *testing.T, c *streams.Conn, o AuditOptions) Balance {
	t.Helper()
	got, err := Audit(testContext(t), c, "r", o)
	if err != nil || len(got) != 1 {
		t.Fatalf("%d balances, %v", len(got), err)
	}
	return withoutTexts(got)[0]
}

func TestAuditOfStrangers(t *testing.T) {
	c := openQuick(t)
	publishAll(t, c, schemas.PairKinds(), 0)
	publish(t, c, schemas.Scored, scoredOf(prompt("r", 0, 1)))
	nameless := letterFor(prompt("r", 0, 9), 9, "decode")
	nameless.PairId = ""
	publish(t, c, schemas.DeadLetters, nameless)
	odd := scoredOf(prompt("r", 0, 2))
	odd.Pair.Prompt.PairId = "not-a-digest"
	publish(t, c, schemas.Scored, odd)
	b := auditOne(t, c, scoredLedger)
	stray := []string{"not-a-digest", pairID(1)}
	slices.Sort(stray)
	want := []Finding{{Code: FoundGap, Stream: schemas.Encoded, Count: 2, Pairs: stray}}
	if diff := gocmp.Diff(want, b.Findings); b.Prompts != 1 || b.Scored != 3 || b.Unnamed != 1 || diff != "" {
		t.Errorf("%+v (-want +got):\n%s", b, diff)
	}
	if none, err := Audit(testContext(t), c, "nobody", scoredLedger); !errors.Is(err, streams.ErrNotFound) || len(none) != 0 {
		t.Errorf("a run that does not exist: %v, %v", none, err)
	}
	if _, err := Audit(testContext(t), c, "r", AuditOptions{Source: schemas.Control}); err == nil {
		t.Error("the control stream was audited")
	}
}

// The trainer's record is compared with the log pair by pair.
func TestAuditOfTheRecord(t *testing.T) {
	c := openQuick(t)
	const n = 5
	publish(t, c, schemas.Control, closedAt("r", 0, n))
	publishAll(t, c, schemas.PairKinds(), 0, 1, 2, 3, 4)
	ids := make([]string, n)
	for i := range ids {
		ids[i] = pairID(i)
	}
	good := Record{Done: true, Known: true, Pairs: ids}
	if b := auditOne(t, c, ledgerOf(good)); len(b.Findings) > 0 || b.Trained != n || !b.Recorded {
		t.Errorf("all is well: %+v", b)
	}
	for _, c2 := range []struct {
		name  string
		spoil func(r *Record)
		want  Finding
	}{
		{
			"twice", func(r *Record) { r.Pairs = append(r.Pairs, ids[3]) },
			Finding{Code: FoundTwice, Count: 1, Pairs: ids[3:4]},
		},
		{
			"left out", func(r *Record) { r.Pairs = r.Pairs[1:] },
			Finding{Code: FoundUntrained, Stream: schemas.Scored, Count: 1, Pairs: ids[:1]},
		},
		{
			"from nowhere", func(r *Record) { r.Pairs = append(r.Pairs, pairID(99)) },
			Finding{Code: FoundUnknown, Count: 1, Pairs: []string{pairID(99)}},
		},
		{
			"other weights", func(r *Record) { r.Policy = "the-policy" },
			Finding{Code: FoundWeights, Stream: schemas.Scored, Count: n, Pairs: slices.Sorted(slices.Values(ids))[:2]},
		},
		{
			"contradiction", func(r *Record) { r.Problem = "epoch 1 leaves out a pair" }, Finding{Code: FoundRecord, Count: 1},
		},
	} {
		t.Run(c2.name, func(t *testing.T) {
			r := good
			r.Pairs = slices.Clone(ids)
			c2.spoil(&r)
			o := ledgerOf(r)
			o.Names = 2
			b := auditOne(t, c, o)
			if diff := gocmp.Diff([]Finding{c2.want}, b.Findings); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	// a pair that arrives after its iteration was trained is skipped
	publishAll(t, c, schemas.PairKinds(), 5)
	b := auditOne(t, c, ledgerOf(good))
	want := []Finding{{Code: FoundMissing, Stream: schemas.Prompts, Count: 1}}
	if diff := gocmp.Diff(want, b.Findings); diff != "" || !slices.Equal(b.Skipped, []ReasonCount{{skippedLate, 1}}) {
		t.Errorf("late: %+v (-want +got):\n%s", b, diff)
	}
	// pairs of the previous iteration may be mixed in
	publish(t, c, schemas.Prompts, prompt("r", 1, 0))
	publish(t, c, schemas.Pairs, pairOf(prompt("r", 1, 0)))
	publish(t, c, schemas.Encoded, at(schemas.Encoded, prompt("r", 1, 0)))
	publish(t, c, schemas.Scored, scoredOf(prompt("r", 1, 0)))
	mixed := Record{Done: true, Known: true, Pairs: append(slices.Clone(ids), prompt("r", 1, 0).GetPairId())}
	got, err := Audit(testContext(t), c, "r", ledgerOf(good, mixed))
	if err != nil || len(got) != 2 || len(got[1].Findings) > 0 || got[1].Trained != 1 {
		t.Errorf("mixed: %+v, %v", got, err)
	}
}

// loose creates the stream of a kind from which messages can be removed in the middle.
func loose(t *testing.T, c *streams.Conn, kind schemas.Kind) {
	t.Helper()
	js, name := raw(t, c), streams.StreamName(kind, "r")
	stream, err := js.Stream(testContext(t), name)
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.DenyDelete = false // which no update can change
	if err := js.DeleteStream(testContext(t), name); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(testContext(t), config); err != nil {
		t.Fatal(err)
	}
}

// A message that a stage acknowledged without an output or a dead letter is lost, not in flight. A message that is missing in the
// middle of a log is a gap. Messages that retention has removed are neither.
func TestAuditTellsLossFromRetention(t *testing.T) {
	c := openQuick(t)
	loose(t, c, schemas.Prompts)
	loose(t, c, schemas.Pairs)
	const n = 6
	publish(t, c, schemas.Control, closedAt("r", 0, n))
	publish(t, c, schemas.Prompts, promptList("r", 0, n)...)
	ctx := testContext(t)
	s := generator("r", 1)
	stop := start(t, c, s, answer)
	await(t, c, schemas.Pairs, "r", n)
	settled(t, c, s)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	remove := func(kind schemas.Kind, seq uint64) {
		t.Helper()
		stream, err := raw(t, c).Stream(ctx, streams.StreamName(kind, "r"))
		if err == nil {
			err = stream.DeleteMsg(ctx, seq)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	remove(schemas.Pairs, 2)   // pair 1 is lost: its prompt was acknowledged
	remove(schemas.Prompts, 5) // a hole before pair 4
	remove(schemas.Prompts, 1) // the oldest, like retention
	pairs := AuditOptions{Iteration: 0, Source: schemas.Pairs}
	b := auditOne(t, c, pairs)
	want := []Finding{
		{Code: FoundMissing, Stream: schemas.Prompts, Count: 1},
		{Code: FoundGap, Stream: schemas.Prompts, Count: 1, Pairs: []string{pairID(4)}},
		{Code: FoundLost, Count: 1, Pairs: []string{pairID(1)}},
	}
	if diff := gocmp.Diff(want, b.Findings); diff != "" || b.Expired != 1 || b.Ready != 5 || b.Lost != 1 {
		t.Errorf("%+v (-want +got):\n%s", b, diff)
	}
}

// While a stage works, an audit never reports a pair as lost, missing or unknown.
func TestAuditBesideWork(t *testing.T) {
	c := openQuick(t)
	const n = 300
	start(t, c, generator("r", 8), answer)
	go func() {
		for i := range n {
			if err := c.Publish(t.Context(), schemas.Prompts, prompt("r", 0, i)); err != nil {
				return // the test has failed
			}
		}
	}()
	pairs := AuditOptions{Iteration: streams.AllIterations, Source: schemas.Pairs}
	for done := false; !done; {
		got, err := Audit(testContext(t), c, "r", pairs)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range got {
			if len(b.Findings) > 0 {
				t.Fatalf("%+v", b)
			}
			done = b.Pairs == n
		}
	}
}

func TestDrop(t *testing.T) {
	c := openQuick(t)
	ctx := testContext(t)
	publish(t, c, schemas.Prompts, prompt("r", 0, 0), prompt("r", 0, 1))
	for i := range 2 {
		l := letterFor(prompt("r", 0, i), uint64(i+1), "too_long")
		l.Original = marshal(t, prompt("r", 0, i))
		publish(t, c, schemas.DeadLetters, l)
	}
	if err := Drop(ctx, c, "r", 1, "somebody"); err != nil {
		t.Fatal(err)
	}
	if err := Drop(ctx, c, "r", 1, "somebody"); !errors.Is(err, streams.ErrNotFound) {
		t.Errorf("dropped twice: %v", err)
	}
	letters, err := DeadLetters(ctx, c, "r")
	if err != nil || len(letters) != 2 || letters[1].GetDroppedBy() != "somebody" || letters[1].GetOriginal() != nil {
		t.Fatalf("%v, %v", letters, err)
	}
	if err := Redrive(ctx, c, "r", letters[1].Seq); err == nil || !strings.Contains(err.Error(), "dropped by somebody") {
		t.Errorf("a dropped letter was redriven: %v", err)
	}
	if err := Drop(ctx, c, "r", letters[1].Seq, "another"); err != nil {
		t.Errorf("dropped again: %v", err)
	}
	b := auditOne(t, c, scoredLedger)
	if b.Dropped != 1 || b.DeadTotal() != 2 || len(b.Findings) > 0 {
		t.Errorf("%+v", b)
	}
	stream, err := raw(t, c).Stream(ctx, streams.StreamName(schemas.DeadLetters, "r"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.GetMsg(ctx, 1); !errors.Is(err, jetstream.ErrMsgNotFound) {
		t.Errorf("the original is still there: %v", err)
	}
}

// Dead letters of messages that another program has put on the streams do not count as pairs of the iteration, and the sum holds
// without them. Pairs that the trainer has skipped must be in the log.
func TestAuditOfLettersThatNobodyAskedFor(t *testing.T) {
	c := openQuick(t)
	const n = 3
	publish(t, c, schemas.Control, closedAt("r", 0, n))
	publishAll(t, c, schemas.PairKinds(), 0, 1, 2)
	publish(t, c, schemas.Encoded, at(schemas.Encoded, prompt("r", 0, 8)))
	letter := letterFor(prompt("r", 0, 8), n+1, "invalid")
	letter.Stream, letter.Subject = streams.StreamName(schemas.Encoded, "r"), schemas.Subject(schemas.Encoded, "r", 0)
	publish(t, c, schemas.DeadLetters, letter, letterFor(prompt("r", 0, 9), 77, "invalid"))
	record := Record{Done: true, Known: true, Pairs: []string{pairID(0), pairID(1), pairID(2)}}
	b := auditOne(t, c, ledgerOf(record))
	if b.Prompts != n || b.Trained != n || b.DeadTotal() != 0 || b.Unnamed != 2 || !b.Balances() {
		t.Errorf("%+v", b)
	}
	record.Skipped = []Skip{{pairID(99), schemas.ReasonEmpty}}
	b = auditOne(t, c, ledgerOf(record))
	want := []Finding{{Code: FoundUnknown, Count: 1, Pairs: []string{pairID(99)}}}
	if diff := gocmp.Diff(want, b.Findings); diff != "" || b.Balances() {
		t.Errorf("skipped, and unknown: %+v (-want +got):\n%s", b, diff)
	}
	if (Balance{Prompts: 2, Trained: 1}).Balances() {
		t.Error("1 of 2 is all")
	}
}

// When retention removes a prompt whose pair has a dead letter, the pair still counts as dead and as one of the iteration.
func TestAuditOfALetterWhosePromptIsRemoved(t *testing.T) {
	c := openQuick(t)
	publish(t, c, schemas.Control, closedAt("r", 0, 2))
	publishAll(t, c, schemas.PairKinds(), 0, 1)
	publish(t, c, schemas.Prompts, prompt("r", 1, 0))
	publish(t, c, schemas.DeadLetters, letterFor(prompt("r", 1, 1), 3, "too_long"))
	publish(t, c, schemas.Control, closedAt("r", 1, 1))
	stream, err := raw(t, c).Stream(testContext(t), streams.StreamName(schemas.Prompts, "r"))
	if err == nil {
		err = stream.Purge(testContext(t), jetstream.WithPurgeSequence(4))
	}
	if err != nil {
		t.Fatal(err)
	}
	o := scoredLedger
	o.Iteration = 1
	b := auditOne(t, c, o)
	if b.Expired != 1 || b.DeadTotal() != 1 || b.Unnamed != 0 || !b.Balances() {
		t.Errorf("%+v", b)
	}
}

// A log that has lost all messages of an announced iteration does not balance. Control messages alone do not make an iteration.
func TestAuditOfAnIterationThatIsGone(t *testing.T) {
	c := openQuick(t)
	publish(t, c, schemas.Control, closedAt("r", 0, 4), &events.Control{Schema: 1, Run: "r", Iteration: 1, Kind: "finished"})
	for _, given := range []*streams.Source{nil, {Run: "s", Kind: schemas.Scored, First: 1, Last: 1}} {
		o := scoredLedger
		o.Given = given
		b := auditOne(t, c, o)
		want := []Finding{{Code: FoundMissing, Stream: schemas.Prompts, Count: 4}}
		if diff := gocmp.Diff(want, b.Findings); diff != "" || b.Balances() {
			t.Errorf("%+v (-want +got):\n%s", b, diff)
		}
	}
}

// An audit counts pairs by the version of libtorch that computed them, also when workers had different versions, and when the run
// was restored from a backup.
func TestAuditNamesLibtorch(t *testing.T) {
	c, restored := openQuick(t), openQuick(t)
	for i, version := range []string{"2.15.0", "2.11.0"} {
		publish(t, c, schemas.Prompts, prompt("r", 0, i), prompt("r", 0, 2*i+2))
		s := generator("r", 1)
		s.Libtorch = version
		stop := start(t, c, s, answer)
		settled(t, c, s)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
	distance := streams.Stage{Name: "distance", In: schemas.Pairs, Run: "r"}
	start(t, c, distance, func(_ context.Context, in []events.Message) []streams.Outcome {
		return []streams.Outcome{{Out: []streams.Emit{{Kind: schemas.Scored, Msg: scoredOf(events.PromptOf(in[0]))}}}}
	})
	await(t, c, schemas.Scored, "r", 4)
	moveRun(t, c, restored, "r")
	want := []VersionCount{{"2.11.0", schemas.Pairs, 2}, {"2.15.0", schemas.Pairs, 2}}
	for _, c := range []*streams.Conn{c, restored} {
		got, err := Audit(testContext(t), c, "r", scoredLedger)
		if err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(want, got[0].Libtorch); len(got) != 1 || diff != "" {
			t.Errorf("%d iterations (-want +got):\n%s", len(got), diff)
		}
	}
}
