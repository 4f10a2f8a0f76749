package streams

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// badInput lists entries that cannot be processed, with the reasons of their dead letters.
type badInput struct {
	name, reason string
	subject      string
	data         []byte
}

// badScored lists invalid scored pairs, each with its own pair id.
func badScored(t *testing.T) []badInput {
	t.Helper()
	spoilt := func(i int, spoil func(s *events.Scored)) []byte {
		s := scoredOf(prompt("r", 0, i))
		s.Pair.ChosenIds, s.Pair.RejectedIds, s.Pair.ChosenLogp, s.Pair.RejectedLogp = []int64{1}, []int64{2}, -1, -2
		spoil(s)
		return marshal(t, s)
	}
	const subject = "ldalign.scored.r.0"
	return []badInput{
		{"garbage", "decode", subject, []byte("\xff\xfe not protobuf")},
		{"nothing", "decode", subject, nil},
		{"no schema", "decode", subject, spoilt(3, func(s *events.Scored) { s.Schema = 0 })},
		{"another run", "decode", subject, spoilt(4, func(s *events.Scored) { s.Pair.Prompt.Run = "other" })},
		{"another iteration", "decode", subject, spoilt(5, func(s *events.Scored) { s.Pair.Prompt.Iteration = 7 })},
		{"no pair", "decode", subject, spoilt(6, func(s *events.Scored) { s.Pair = nil })},
		{"no reference log-probs", "invalid", subject, spoilt(7, func(s *events.Scored) { s.Pair.ChosenLogp, s.Pair.RejectedLogp = 0, 0 })},
		{"log-probs that are no number", "invalid", subject, spoilt(8, func(s *events.Scored) { s.Pair.ChosenLogp = math.NaN() })},
		{"a token that is none", "invalid", subject, spoilt(9, func(s *events.Scored) { s.Pair.RejectedIds = []int64{3, -5} })},
		{"a negative distance", "invalid", subject, spoilt(10, func(s *events.Scored) { s.Distance = -0.5 })},
		{"a distance that is no number", "invalid", subject, spoilt(11, func(s *events.Scored) { s.Distance = math.NaN() })},
		{"an infinite distance", "invalid", subject, spoilt(12, func(s *events.Scored) { s.Distance = math.Inf(1) })},
	}
}

// put stores raw bytes under the id of the i-th pair, as another program might.
func put(t *testing.T, c *Conn, kind schemas.Kind, subject string, i int, data []byte) {
	t.Helper()
	id := messageID(kind, pairID(i))
	if err := c.send(testContext(t), kind, sealedAs(subject, id, data)); err != nil {
		t.Fatal(err)
	}
}

// reasonsOf returns the reasons of a run's dead letters by pair.
func reasonsOf(t *testing.T, c *Conn) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, r := range stored(t, c, schemas.DeadLetters, "r") {
		l := r.Message.(*events.DeadLetter)
		out[l.GetPairId()] = l.GetReason()
		if l.GetTries() != 1 || l.GetWorker() == "" || l.GetError() == "" {
			t.Errorf("letter %+v", l)
		}
	}
	return out
}

// The runner passes no bad input to Process, and every good message.
func TestStageBuriesBadInput(t *testing.T) {
	c := openQuick(t)
	subject := func(i uint32) string { return schemas.Subject(schemas.Scored, "r", i) }
	bad := badScored(t)
	bad = append(bad, badInput{"a future iteration", "iteration", subject(3), marshal(t, func() proto.Message {
		s := scoredOf(prompt("r", 0, len(bad)))
		s.Pair.Prompt.Iteration = 3
		return s
	}())})
	for i, b := range bad {
		put(t, c, schemas.Scored, b.subject, i, b.data)
	}
	n := len(bad)
	publish(t, c, schemas.Scored, scoredOf(prompt("r", 0, n)))
	s := Stage{Name: "reader", In: schemas.Scored, Run: "r", Batch: 4, End: 3}
	worked := make(chan string, n+1)
	start(t, c, s, func(_ context.Context, in []events.Message) []Outcome {
		for _, m := range in {
			worked <- m.ID()
		}
		return make([]Outcome, len(in))
	})
	settled(t, c, s)
	close(worked)
	var got []string
	for id := range worked {
		got = append(got, id)
	}
	if want := []string{pairID(n)}; !slices.Equal(got, want) {
		t.Errorf("the stage worked on %v, want %v", got, want)
	}
	reasons := reasonsOf(t, c)
	for i, b := range bad {
		if got := reasons[pairID(i)]; got != b.reason {
			t.Errorf("%s: reason %q, want %q", b.name, got, b.reason)
		}
	}
}

// Any bytes on a stream either decode to a valid message or are rejected with a reason.
func FuzzOpen(f *testing.F) {
	for _, kind := range schemas.PairKinds() {
		data, err := proto.Marshal(at(kind, prompt("r", 0, 1)))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(fmt.Sprintf("ldalign.%s.r.0", kind), data)
	}
	f.Add("ldalign.scored.r.0", []byte{0x12, 0x05, 0x4a, 0x03, 'a', 'b', 'c'})
	f.Add("ldalign.control.r.0", []byte{})
	f.Add("somewhere.else", []byte{0xff})
	f.Fuzz(func(t *testing.T, subject string, data []byte) {
		m, err := open(subject, data)
		_, _, _, subjectErr := schemas.ParseSubject(subject)
		if err != nil {
			if m != nil || reasonOf(err) == schemas.ReasonPoison && !errors.Is(err, ErrNewer) {
				t.Fatalf("%v, %v", m, err)
			}
			e := Entry{Stream: "S", Subject: subject, Seq: 1, Data: data}
			if l := LetterOf("stage", e, err); l.GetReason() == "" || l.ID() != "S-1" {
				t.Fatalf("letter %v", l)
			}
			return
		}
		if subjectErr != nil || m.ID() == "" || events.Check(m) != nil {
			t.Fatalf("%q: %v, %v", subject, m, subjectErr)
		}
	})
}
