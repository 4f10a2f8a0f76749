package runs

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/ledger"
)

// lettersOf buries pairs of a run that is declared: one by each stage and reason.
func (w world) buries(run string) {
	w.t.Helper()
	w.declare(w.spec(run))
	for i, d := range []struct {
		stage, reason string
		iteration     uint32
	}{{"generator", schemas.ReasonPoison, 0}, {"generator", schemas.ReasonTooLong, 0}, {"encoder", schemas.ReasonPoison, 1}} {
		p := prompt(run, d.iteration, i)
		original, err := proto.Marshal(p)
		w.must(err)
		w.publish(schemas.DeadLetters, &events.DeadLetter{
			Schema: events.Version, Run: run, Iteration: d.iteration, Stage: d.stage, Reason: d.reason, Error: "it failed", Tries: 3,
			Deliveries: 3, Stream: streams.StreamName(schemas.Prompts, run), Sequence: uint64(i + 1), PairId: p.GetPairId(),
			Subject: schemas.Subject(schemas.Prompts, run, d.iteration), Original: original,
		})
	}
}

func TestLettersAreSelected(t *testing.T) {
	w := newWorld(t)
	w.buries("align")
	for _, c := range []struct {
		filter LetterFilter
		want   string
	}{
		{LetterFilter{Iteration: streams.AllIterations}, "generator poison 0, generator too_long 0, encoder poison 1"},
		{LetterFilter{Iteration: 0}, "generator poison 0, generator too_long 0"},
		{LetterFilter{Reason: schemas.ReasonPoison, Iteration: streams.AllIterations}, "generator poison 0, encoder poison 1"},
		{LetterFilter{Stage: "encoder", Iteration: streams.AllIterations}, "encoder poison 1"},
		{LetterFilter{Stage: "encoder", Iteration: 0}, ""},
	} {
		letters, err := Letters(t.Context(), w.Session, "align", c.filter)
		w.must(err)
		var got []string
		for _, l := range letters {
			got = append(got, l.Stage+" "+l.Reason+" "+string('0'+rune(l.Iteration)))
		}
		if strings.Join(got, ", ") != c.want {
			t.Errorf("%+v selects %v, want %s", c.filter, got, c.want)
		}
		if all := c.filter == (LetterFilter{Iteration: streams.AllIterations}); c.filter.Narrow() == all {
			t.Errorf("%+v is narrow: %v", c.filter, !all)
		}
	}
}

// Many letters are redriven or dropped one after the other; an error says how far it came, and the rest can be done later.
func TestManyLetters(t *testing.T) {
	w := newWorld(t)
	w.buries("align")
	all := LetterFilter{Iteration: streams.AllIterations}
	letters, err := Letters(t.Context(), w.Session, "align", all)
	w.must(err)
	told := 0
	tell := func(ledger.Letter) error { told++; return nil }
	gone := append(letters[:1:1], ledger.Letter{Seq: 99})
	if err := Redrive(t.Context(), w.Session, append(gone, letters[1:]...), tell); !errors.Is(err, streams.ErrNotFound) ||
		!strings.Contains(err.Error(), "1 of 4 letters are redriven; run the same command to continue") || told != 1 {
		t.Errorf("told of %d: %v", told, err)
	}
	if letters, err = Letters(t.Context(), w.Session, "align", all); err != nil || len(letters) != 2 || w.count("align")[schemas.Prompts] != 1 {
		t.Fatalf("%d letters are left, and %v", len(letters), w.count("align"))
	}
	w.must(Drop(t.Context(), w.Session, letters, "somebody", tell))
	letters, err = Letters(t.Context(), w.Session, "align", all)
	w.must(err)
	if told != 3 || len(letters) != 2 || letters[0].DroppedBy != "somebody" || letters[1].DroppedBy != "somebody" {
		t.Errorf("told of %d, dropped are %+v", told, letters)
	}
	if _, err := LettersAt(t.Context(), w.Session, "align", []uint64{letters[0].Seq, 99}); !errors.Is(err, streams.ErrNotFound) {
		t.Errorf("letter 99: %v", err)
	}
	if at, err := LettersAt(t.Context(), w.Session, "align", []uint64{letters[1].Seq, letters[0].Seq}); err != nil || len(at) != 2 || at[1].Seq != letters[0].Seq {
		t.Errorf("by number: %+v, %v", at, err)
	}
}
