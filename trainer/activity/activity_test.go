package activity

import (
	"testing"

	"github.com/ldalign/ldalign/schemas"
)

// TestEvents: an exporter has run, phase, iteration and end of every event, and a person reads what it is.
func TestEvents(t *testing.T) {
	at := func(done, total int) Work {
		return Work{Run: "r", Phase: "policy", Iteration: 3, Done: done, Total: total}
	}
	tests := []struct {
		event Event
		text  string
		unit  string
		ended bool
	}{
		{Waiting{Work: at(0, 0), Kind: schemas.Scored}, "wait for scored 3", "pairs", false},
		{Waiting{Work: at(4, 5), Kind: schemas.Scored}, "wait for scored 3", "pairs", false},
		{Reading{Work: at(5, 5), Kind: schemas.Pairs}, "read back pairs 3", "pairs", true},
		{Reading{Work: at(2, 5), Kind: schemas.Pairs, Source: "other"}, "read pairs 3 of other", "pairs", false},
		{Referring{Work: at(5, 5)}, "refer 3", "pairs", true},
		{Training{Work: at(6, 5), Objective: "spin"}, "train spin 3", "steps", true},
		{Training{Work: at(1, 5), Objective: "guide"}, "train guide", "steps", false},
	}
	for _, test := range tests {
		w := test.event.Progress()
		if test.event.String() != test.text || test.event.Unit() != test.unit || w.Ended() != test.ended || w.Run != "r" ||
			w.Phase != "policy" || w.Iteration != 3 {
			t.Errorf("%q in %s, ended %t, of %+v; want %q in %s, ended %t", test.event, test.event.Unit(), w.Ended(), w, test.text,
				test.unit, test.ended)
		}
	}
}
