package ledger

import (
	"errors"
	"fmt"
	"math"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
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

// reasonsOf returns the reasons of a run's dead letters by pair.
func reasonsOf(t *testing.T, c *streams.Conn) map[string]string {
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

// Messages that the trainer cannot use become dead letters, and the iteration completes without them.
func TestCollectBuriesBadInput(t *testing.T) {
	c := openQuick(t)
	bad := badScored(t)
	n := len(bad)
	publish(t, c, schemas.Prompts, promptList("r", 0, n+1)...)
	publish(t, c, schemas.Control, closedAt("r", 0, n+1))
	for i, b := range bad {
		put(t, c, schemas.Scored, i, b.data)
	}
	publish(t, c, schemas.Scored, scoredOf(prompt("r", 0, n)))
	for range 2 { // twice, like a trainer that resumes
		got, err := Collect(testContext(t), c, schemas.Scored, "r", 0, nil)
		if err != nil || got.Dead != n || len(got.Messages) != 1 {
			t.Fatalf("%d messages, %d dead, %v", len(got.Messages), got.Dead, err)
		}
	}
	reasons := reasonsOf(t, c)
	for i, b := range bad {
		if got := reasons[pairID(i)]; got != b.reason {
			t.Errorf("%s: reason %q, want %q", b.name, got, b.reason)
		}
	}
	good := Record{Done: true, Known: true, Pairs: []string{pairID(n)}}
	o := ledgerOf(good)
	b := auditOne(t, c, o)
	if b.Trained != 1 || b.DeadTotal() != n {
		t.Errorf("%+v", b)
	}
}

// policyOf agrees with decoding the whole message, and accepts any bytes.
func FuzzPolicyOf(f *testing.F) {
	for _, kind := range schemas.PairKinds() {
		data, err := proto.Marshal(at(kind, prompt("r", 0, 1)))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(fmt.Sprintf("ldalign.%s.r.0", kind), data)
	}
	f.Add("ldalign.scored.r.0", []byte{0x12, 0x05, 0x4a, 0x03, 'a', 'b', 'c'})
	f.Add("ldalign.pairs.r.0", []byte{0xff})
	f.Fuzz(func(t *testing.T, subject string, data []byte) {
		m, err := streams.Entry{Subject: subject, Data: data}.Open()
		kind, _, _, _ := schemas.ParseSubject(subject)
		if err != nil {
			policyOf(schemas.Scored, data)
			return
		}
		if pair, ok := m.(*events.Pair); ok && policyOf(kind, data) != pair.GetPolicyDigest() {
			t.Fatalf("policy %q, want %q", policyOf(kind, data), pair.GetPolicyDigest())
		}
	})
}

// The trainer does not give up pairs that a newer program has written: it ends, and a newer one continues.
func TestCollectOfANewerProgram(t *testing.T) {
	c := openQuick(t)
	newer := scoredOf(prompt("r", 0, 0))
	newer.Schema = events.Version + 1
	publish(t, c, schemas.Prompts, promptList("r", 0, 2)...)
	publish(t, c, schemas.Control, closedAt("r", 0, 2))
	put(t, c, schemas.Scored, 0, marshal(t, newer))
	publish(t, c, schemas.Scored, scoredOf(prompt("r", 0, 1)))
	_, err := Collect(testContext(t), c, schemas.Scored, "r", 0, nil)
	source := streams.Source{Run: "r", Kind: schemas.Scored, First: 1, Last: 2}
	_, recallErr := Recall(testContext(t), c, source, "replay", 0, -1, nil)
	for _, err := range []error{err, recallErr} {
		if !errors.Is(err, streams.ErrNewer) {
			t.Errorf("got %v, want ErrNewer", err)
		}
	}
	if got := reasonsOf(t, c); len(got) != 0 {
		t.Errorf("dead letters %v, want none", got)
	}
}
