package decode

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/models/tensor"
)

// The expected values are OpenAI's formula by hand, logit − c·frequency − (1 if c > 0)·presence, plus the bias, for a
// response 5 9 5 and a bias on one token in it and one that is not.
func TestAdditions(t *testing.T) {
	s := Sampling{PresencePenalty: 0.5, FrequencyPenalty: 0.25, Bias: map[int64]float64{9: 2, 3: -1.5}}
	h := newHistory(s, []int64{7, 7, 5}) // the prompt does not count
	if got, want := s.additions(h.counts), []tensor.Scored{{Token: 3, Value: -1.5}, {Token: 9, Value: 2}}; !cmp.Equal(got, want) {
		t.Errorf("before the first token: %v, want %v", got, want)
	}
	for _, id := range []int64{5, 9, 5} {
		h.add(id)
	}
	want := []tensor.Scored{
		{Token: 3, Value: -1.5},
		{Token: 5, Value: -1},   // −2·0.25 − 0.5
		{Token: 9, Value: 1.25}, // 2 − 1·0.25 − 0.5
	}
	if got := s.additions(h.counts); !cmp.Equal(got, want) {
		t.Errorf("after 5 9 5: %v, want %v", got, want)
	}
	if len(s.Bias) != 2 || s.Bias[9] != 2 {
		t.Errorf("the request's bias was changed to %v", s.Bias)
	}
	if h.seen != nil {
		t.Errorf("without a repetition penalty %v was noted", h.seen)
	}
}

// The repetition penalty counts the prompt and the response. A request without penalties counts nothing.
func TestHistoryNotesWhatPenaltiesNeed(t *testing.T) {
	prompt := []int64{4, 4}
	h := newHistory(Sampling{RepetitionPenalty: 1.2}, prompt)
	h.add(6)
	if !cmp.Equal(h.seen, []int64{4, 4, 6}) || h.counts != nil || prompt[0] != 4 {
		t.Errorf("seen %v, counts %v", h.seen, h.counts)
	}
	for _, s := range []Sampling{{}, {RepetitionPenalty: 1}, {Temperature: 1, Bias: map[int64]float64{1: 1}}} {
		h := newHistory(s, prompt)
		h.add(6)
		if h.seen != nil || h.counts != nil {
			t.Errorf("%+v: %+v, want nothing", s, h)
		}
	}
	if got := (Sampling{}).additions(nil); got != nil {
		t.Errorf("no settings add %v", got)
	}
}
