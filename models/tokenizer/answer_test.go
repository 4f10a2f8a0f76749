package tokenizer_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/ldalign/ldalign/models/tokenizer"
)

// The pieces of an answer are the text of its tokens up to the first stop string, for each kind of decoder.
func TestAnswerEndsAtAStopString(t *testing.T) {
	for _, name := range kinds {
		t.Run(name, func(t *testing.T) {
			tok := load(t, name)
			rapid.Check(t, func(t *rapid.T) {
				ids := rapid.SliceOfN(rapid.Int64Range(0, int64(tok.Vocab())-1), 0, 30).Draw(t, "ids")
				stops := rapid.SliceOfN(rapid.StringMatching("[a-e ]{1,2}"), 0, 3).Draw(t, "stops")
				answer, err := tok.Answer(stops...)
				if err != nil {
					t.Fatal(err)
				}
				got, taken, stopped := "", 0, false
				for ; taken < len(ids) && !stopped; taken++ {
					var text string
					text, stopped = answer.Push(ids[taken])
					got += text
				}
				got += answer.Flush()
				whole, err := tokenizer.NewStopMatcher(stops...)
				if err != nil {
					t.Fatal(err)
				}
				want, _ := whole.Push(tok.Decode(ids[:taken], true))
				if want += whole.Flush(); got != want || stopped && whole.Stopped() == "" {
					t.Fatalf("ids %v, stops %q: %q, want %q", ids[:taken], stops, got, want)
				}
			})
		})
	}
	if _, err := load(t, "llama").Answer(""); err == nil {
		t.Error("an empty stop string is taken")
	}
}
