package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
)

// filled publishes a run "r" of two closed iterations, each with n prompts and pairs, among messages of another run.
func filled(t *testing.T, c *streams.Conn, n int) {
	t.Helper()
	for i := range uint32(2) {
		for k := range n {
			publish(t, c, schemas.Prompts, prompt("r", i, k))
			publish(t, c, schemas.Pairs, pairOf(prompt("r", i, k)), pairOf(prompt("other", i, k)))
		}
		publish(t, c, schemas.Control, closedAt("r", i, n))
	}
}

func TestSurvey(t *testing.T) {
	c := openQuick(t)
	filled(t, c, 5)
	got, err := Survey(testContext(t), c, schemas.Pairs, "r", 0, 2)
	if want := (streams.Source{Run: "r", Kind: schemas.Pairs, First: 1, Last: 10}); err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	if got, err := Survey(testContext(t), c, schemas.Pairs, "r", 1, 2); err != nil || got.First != 6 || got.Last != 10 {
		t.Errorf("iteration 1: %+v, %v", got, err)
	}
	for _, bad := range []struct {
		name string
		kind schemas.Kind
		end  uint32
		says string
	}{
		{"not begun", schemas.Pairs, 3, "iteration 2 of run r is not closed"},
		{"in flight", schemas.Scored, 1, "has 0 of 5 scored"},
		{"no pairs", schemas.Control, 1, "control has no pairs"},
	} {
		if _, err := Survey(testContext(t), c, bad.kind, "r", 0, bad.end); err == nil || !strings.Contains(err.Error(), bad.says) {
			t.Errorf("%s: got %v, want %q", bad.name, err, bad.says)
		}
	}
	// missing pairs have dead letters
	publish(t, c, schemas.Scored, scoredOf(prompt("r", 0, 0)))
	for k := 1; k < 5; k++ {
		publish(t, c, schemas.DeadLetters, letterFor(prompt("r", 0, k), uint64(k+1), schemas.ReasonTooLong))
	}
	if got, err := Survey(testContext(t), c, schemas.Scored, "r", 0, 1); err != nil || got.First != 1 || got.Last != 1 {
		t.Errorf("one scored, four dead: %+v, %v", got, err)
	}
}

func TestRecall(t *testing.T) {
	c := openQuick(t)
	for k := 4; k >= 0; k-- {
		publish(t, c, schemas.Pairs, pairOf(prompt("r", 0, k)))
	}
	source := streams.Source{Run: "r", Kind: schemas.Pairs, First: 1, Last: 5}
	publish(t, c, schemas.Pairs, pairOf(prompt("r", 0, 5))) // later than the source's end
	haves := 0
	got, err := Recall(testContext(t), c, source, "again", 0, 5, func(have int) { haves = have })
	if err != nil || len(got.Messages) != 5 || haves != 5 || got.First != 1 || got.Last != 5 {
		t.Fatalf("%d messages, %d to %d, progress %d, %v", len(got.Messages), got.First, got.Last, haves, err)
	}
	for k, m := range got.Messages {
		if events.PromptOf(m).GetPosition() != uint64(k) {
			t.Errorf("place %d holds position %d", k, events.PromptOf(m).GetPosition())
		}
	}
	if _, err := Recall(testContext(t), c, source, "again", 0, 6, nil); !errors.Is(err, streams.ErrIncomplete) || !strings.Contains(err.Error(), "5 of 6") {
		t.Errorf("one is missing: %v", err)
	}
}

// An undecodable entry in a source's log counts as one of the source's pairs, and becomes a dead letter of the run that reads the
// source. It is not missing, and the source gets no dead letter.
func TestRecallBuriesBadInput(t *testing.T) {
	c := openQuick(t)
	const n = 3
	publish(t, c, schemas.Scored, scoredOf(prompt("r", 0, 0)))
	put(t, c, schemas.Scored, 1, []byte("\xff"))
	publish(t, c, schemas.Scored, scoredOf(prompt("r", 0, 2)))
	publish(t, c, schemas.Control, closedAt("r", 0, n), closedAt("again", 0, n))
	source, err := Survey(testContext(t), c, schemas.Scored, "r", 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	want, err := CountIn(testContext(t), c, source, 0)
	if err != nil || want != n {
		t.Fatalf("counted %d, %v", want, err)
	}
	for range 2 {
		got, err := Recall(testContext(t), c, source, "again", 0, want, nil)
		if err != nil || len(got.Messages) != n-1 || got.Dead != 1 {
			t.Fatalf("%d messages, %d dead, %v", len(got.Messages), got.Dead, err)
		}
	}
	letters, err := DeadLetters(testContext(t), c, "again")
	if err != nil || len(letters) != 1 || letters[0].GetPairId() != pairID(1) || letters[0].GetReason() != schemas.ReasonDecode {
		t.Errorf("letters of the run that reads: %v, %v", letters, err)
	}
	if letters, err := DeadLetters(testContext(t), c, "r"); err != nil || len(letters) != 0 {
		t.Errorf("letters of the source: %v, %v", letters, err)
	}
	o := ledgerOf(Record{Done: true, Known: true, Pairs: []string{pairID(0), pairID(2)}})
	o.Given = &source
	got, err := Audit(testContext(t), c, "again", o)
	if err != nil || len(got) != 1 || got[0].Trained != n-1 || got[0].DeadTotal() != 1 || !got[0].Balances() {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestTrimmedLog checks that a source whose beginning retention has removed is refused, with the missing sequences.
func TestTrimmedLog(t *testing.T) {
	c := openQuick(t)
	filled(t, c, 5)
	stream, err := raw(t, c).Stream(testContext(t), streams.StreamName(schemas.Pairs, "r"))
	if err == nil {
		err = stream.Purge(testContext(t), jetstream.WithPurgeSequence(4))
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = Survey(testContext(t), c, schemas.Pairs, "r", 0, 1)
	if !errors.Is(err, streams.ErrIncomplete) || !strings.Contains(err.Error(), "lacks 3 of 5 pairs: sequences 1 to 3") {
		t.Errorf("survey: %v", err)
	}
	_, err = Recall(testContext(t), c, streams.Source{Run: "r", Kind: schemas.Pairs, First: 1, Last: 9}, "again", 0, -1, nil)
	if !errors.Is(err, streams.ErrIncomplete) || !strings.Contains(err.Error(), "sequences 1 to 3 of stream LDALIGN_r_PAIRS are gone") {
		t.Errorf("recall: %v", err)
	}
	if _, err := Survey(testContext(t), c, schemas.Pairs, "r", 1, 2); err != nil {
		t.Errorf("iteration 1 is whole: %v", err)
	}
}

// encoded returns the output of an encoder for a pair.
func encoded(_ context.Context, in []events.Message) []streams.Outcome {
	out := make([]streams.Outcome, len(in))
	for i, m := range in {
		p := m.(*events.Pair)
		if p.GetRejected() == "bad" {
			out[i].Err = &schemas.Reject{Reason: schemas.ReasonInvalid, Err: errors.New("bad")}
			continue
		}
		out[i].Out = []streams.Emit{{Kind: schemas.Encoded, Msg: &events.Encoded{Schema: 1, Pair: p}}}
	}
	return out
}

// TestStageWithASource checks that a stage adopts another run's messages up to the source's end, under their ids, and writes only
// to its own run. Its dead letters can be redriven there.
func TestStageWithASource(t *testing.T) {
	c := openQuick(t)
	const n = 6
	var last uint64
	for k := range n {
		p := pairOf(prompt("r", 0, k))
		if k == 2 {
			p.Rejected = "bad"
		}
		publish(t, c, schemas.Pairs, pairOf(prompt("r", 1, k)), p)
		last += 2
	}
	publish(t, c, schemas.Pairs, pairOf(prompt("r", 0, n)))
	before := stored(t, c, schemas.Pairs, "r")
	s := streams.Stage{
		Name: "encoder", In: schemas.Pairs, Run: "again", Batch: 4, Iterations: []uint32{0},
		Source: &streams.Source{Run: "r", Kind: schemas.Pairs, First: 1, Last: last},
		Adopt:  func(m events.Message) { events.PromptOf(m).SampleSeed = 42 },
	}
	start(t, c, s, encoded)
	got := await(t, c, schemas.Encoded, "again", n-1)
	settled(t, c, s)
	for _, r := range got {
		p := events.PromptOf(r.Message)
		if p.GetRun() != "again" || p.GetSampleSeed() != 42 || r.Message.GetIteration() != 0 {
			t.Errorf("%v is not adopted", p)
		}
	}
	want := []string{pairID(0), pairID(1), pairID(3), pairID(4), pairID(5)}
	if diff := cmp.Diff(want, idsOf(got)); diff != "" {
		t.Errorf("ids (-want +got):\n%s", diff)
	}
	if n := len(stored(t, c, schemas.Encoded, "again")); n != len(want) {
		t.Errorf("%d messages, want %d: those after the source's end, and of other iterations, are not its", n, len(want))
	}
	letters, err := DeadLetters(testContext(t), c, "again")
	if err != nil || len(letters) != 1 || letters[0].GetPairId() != pairID(2) || letters[0].GetSubject() != "ldalign.pairs.again.0" {
		t.Fatalf("letters %v, %v", letters, err)
	}
	// after the cause is fixed, the redriven message is processed; the source is unchanged
	if err := Redrive(testContext(t), c, "again", letters[0].Seq); err != nil {
		t.Fatal(err)
	}
	if own := await(t, c, schemas.Pairs, "again", 1); own[0].Message.ID() != pairID(2) {
		t.Errorf("redriven %v", own[0].Message)
	}
	settled(t, c, s)
	if letters, err = DeadLetters(testContext(t), c, "again"); err != nil || len(letters) != 1 {
		t.Errorf("worked on again it is bad again: %v, %v", letters, err)
	}
	if readers, err := c.Readers(testContext(t), schemas.Pairs, "r"); err != nil || len(readers) > 0 {
		t.Errorf("a replay's stage counts as one of its source: %+v, %v", readers, err)
	}
	if readers, err := c.Readers(testContext(t), schemas.Pairs, "again"); err != nil || len(readers) != 2 || readers[1].Source != "r" {
		t.Errorf("the stage of a replay: %+v, %v", readers, err)
	}
	after := stored(t, c, schemas.Pairs, "r")
	if fmt.Sprint(idsOf(before)) != fmt.Sprint(idsOf(after)) || !proto.Equal(before[0].Message, after[0].Message) {
		t.Error("the source's log has changed")
	}
}

// TestAuditOfAReplay checks that an audit counts the source's pairs and finds those that are lost.
func TestAuditOfAReplay(t *testing.T) {
	c := openQuick(t)
	for k := range 3 {
		publish(t, c, schemas.Encoded, at(schemas.Encoded, prompt("r", 0, k)))
	}
	publish(t, c, schemas.Control, closedAt("again", 0, 3))
	o := AuditOptions{
		Iteration: streams.AllIterations, Source: schemas.Scored, Given: &streams.Source{Run: "r", Kind: schemas.Encoded, First: 1, Last: 3},
	}
	audit := func() Balance {
		t.Helper()
		got, err := Audit(testContext(t), c, "again", o)
		if err != nil || len(got) != 1 {
			t.Fatalf("%+v, %v", got, err)
		}
		return got[0]
	}
	if b := audit(); b.Prompts != 3 || b.Encoded != 3 || b.Scored != 0 || b.InFlight != 3 || len(b.Findings) > 0 {
		t.Errorf("before the stage: %+v", b)
	}
	for k := range 2 {
		s := scoredOf(prompt("r", 0, k))
		s.Pair.Prompt.Run = "again"
		publish(t, c, schemas.Scored, s)
	}
	if b := audit(); b.Ready != 2 || b.InFlight != 1 || b.Flights[0].PairID != pairID(2) || len(b.Findings) > 0 {
		t.Errorf("two are scored: %+v", b)
	}
	o.Trained, o.Record = 1, func(context.Context, uint32) (Record, error) {
		return Record{Done: true, Known: true, Pairs: []string{pairID(0), pairID(1)}}, nil
	}
	if b := audit(); b.Trained != 2 || len(b.Findings) != 1 || b.Findings[0].Code != FoundUnfinished {
		t.Errorf("trained without the third: %+v", b)
	}
}

func TestSourceOfAStage(t *testing.T) {
	c := openQuick(t)
	for name, s := range map[string]streams.Stage{
		"itself":        {Run: "r", Source: &streams.Source{Run: "r", Kind: schemas.Pairs, First: 1, Last: 2}, Iterations: []uint32{0}},
		"another kind":  {Run: "r", Source: &streams.Source{Run: "q", Kind: schemas.Scored, First: 1, Last: 2}, Iterations: []uint32{0}},
		"no sequences":  {Run: "r", Source: &streams.Source{Run: "q", Kind: schemas.Pairs}, Iterations: []uint32{0}},
		"no iterations": {Run: "r", Source: &streams.Source{Run: "q", Kind: schemas.Pairs, First: 1, Last: 2}},
	} {
		s.Name, s.In = "encoder", schemas.Pairs
		if err := c.RunStage(testContext(t), s, encoded); err == nil {
			t.Errorf("%s: a stage ran with such a source", name)
		}
	}
}
