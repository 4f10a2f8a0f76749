package dataset_test

import (
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/ldalign/ldalign/dataset"
)

func TestScore(t *testing.T) {
	note := dataset.Record{
		Response: "Dear Ida, the exam is on Monday. Kind regards.", // 12 tokens
		Contains: []string{"Ida", "exam", "Monday"},
	}
	for _, c := range []struct {
		name, answer string
		record       dataset.Record
		exact        bool
		graded       float64
	}{
		{"exact", " Dear Ida, the exam is on Monday. Kind regards.\n", note, true, 1},
		{"white space inside", "Dear Ida,  the exam is on Monday. Kind regards.", note, false, 1},
		{"empty", "", note, false, 0},
		{"one word wrong", "Dear Ida, the exam is on Sunday. Kind regards.", note, false, (2./3 + 11./12) / 2},
		{"one word of form missing", "Dear Ida, exam is on Monday. Kind regards.", note, false, (1 + 11./12) / 2},
		{"content without form", "Ida exam Monday", note, false, (1 + 3./12) / 2},
		{"content in the wrong order", "Monday exam Ida", note, false, (1./3 + 1./12) / 2},
		{"part of a word is not the word", "Idaho exams Mondays", note, false, 0},
		{"nothing shared", "no", note, false, 0},
		{
			"repeated content counts each time", "pear pear.",
			dataset.Record{Response: "pear pear pear.", Contains: []string{"pear", "pear", "pear"}},
			false, (2./3 + 3./4) / 2,
		},
		{"without contents, similarity alone", "a b x d", dataset.Record{Response: "a b c d"}, false, 3. / 4},
		{"contents of signs", "5 %", dataset.Record{Response: "5 %", Contains: []string{"5 %"}}, true, 1},
		{"blank contents", "a", dataset.Record{Response: "a", Contains: []string{" "}}, true, 1},
	} {
		exact, graded := dataset.Score(c.record, c.answer)
		if exact != c.exact || math.Abs(graded-c.graded) > 1e-12 {
			t.Errorf("%s: got %v, %v, want %v, %v", c.name, exact, graded, c.exact, c.graded)
		}
	}
}

func TestScoreProperties(t *testing.T) {
	text := rapid.StringMatching(`[ab ,.é1]{0,12}`)
	rapid.Check(t, func(t *rapid.T) {
		record := dataset.Record{Response: text.Draw(t, "response"), Contains: rapid.SliceOfN(text, 0, 3).Draw(t, "contains")}
		answer := text.Draw(t, "answer")
		if _, graded := dataset.Score(record, answer); graded < 0 || graded > 1 {
			t.Fatalf("graded %v is out of [0, 1]", graded)
		}
		plain := dataset.Record{Response: record.Response}
		if exact, graded := dataset.Score(plain, record.Response); !exact || graded != 1 {
			t.Fatalf("the response itself scores %v, %v", exact, graded)
		}
		_, there := dataset.Score(plain, answer)
		_, back := dataset.Score(dataset.Record{Response: answer}, record.Response)
		if there != back {
			t.Fatalf("similarity is %v one way and %v the other", there, back)
		}
	})
}
