package decode

import (
	"maps"
	"slices"

	"github.com/ldalign/ldalign/models/tensor"
)

// history counts the tokens of a row as its penalties need them. Fields that no setting needs are nil.
type history struct {
	seen   []int64       // tokens of prompt and response, for the repetition penalty
	counts map[int64]int // of each token in the response, for the presence and frequency penalties
}

func newHistory(s Sampling, prompt []int64) history {
	var h history
	if s.repetition() != 1 {
		h.seen = slices.Clone(prompt)
	}
	if s.PresencePenalty != 0 || s.FrequencyPenalty != 0 {
		h.counts = map[int64]int{}
	}
	return h
}

// add counts a token of the response.
func (h *history) add(id int64) {
	if h.seen != nil {
		h.seen = append(h.seen, id)
	}
	if h.counts != nil {
		h.counts[id]++
	}
}

// repetition returns the repetition penalty; 1 means none.
func (s Sampling) repetition() float64 {
	if s.RepetitionPenalty == 0 {
		return 1
	}
	return s.RepetitionPenalty
}

// additions returns what to add to logits, sorted by token: the bias, minus the presence and frequency penalties for a response
// with these counts of tokens.
func (s Sampling) additions(counts map[int64]int) []tensor.Scored {
	if len(s.Bias) == 0 && len(counts) == 0 {
		return nil
	}
	sum := maps.Clone(s.Bias)
	if sum == nil {
		sum = make(map[int64]float64, len(counts))
	}
	for id, n := range counts {
		sum[id] -= s.PresencePenalty + float64(n)*s.FrequencyPenalty
	}
	out := make([]tensor.Scored, 0, len(sum))
	for _, id := range slices.Sorted(maps.Keys(sum)) {
		out = append(out, tensor.Scored{Token: id, Value: float32(sum[id])})
	}
	return out
}
