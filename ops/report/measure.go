package report

import "fmt"

// measure is one column of the held-out table.
type measure struct {
	key    string // in table.json
	name   string
	digits int
	// better is +1 where a larger value is better, −1 where a smaller one is, 0 where neither.
	better float64
	// score says that the value is a mean of numbers in [0, 1], so that its sampling error has a bound.
	score bool
	of    func(Scores) *float64
}

// measures in the order of the table.
func measures() []measure {
	return []measure{
		{"greedy_exact", "greedy exact", 3, 1, true, func(s Scores) *float64 { return s.GreedyExact }},
		{"greedy_graded", "greedy graded", 3, 1, true, func(s Scores) *float64 { return s.GreedyGraded }},
		{"sampled_exact", "sampled exact", 3, 1, true, func(s Scores) *float64 { return s.SampledExact }},
		{"sampled_graded", "sampled graded", 3, 1, true, func(s Scores) *float64 { return s.SampledGraded }},
		{"distance", "mean distance", 3, -1, false, func(s Scores) *float64 { return s.Distance }},
		{"answer_tokens", "answer tokens", 1, 0, false, func(s Scores) *float64 { return s.AnswerTokens }},
	}
}

// summary of the measure over the row's seeds, without the missing ones.
func (m measure) summary(r Row) summary { return summarise(m.values(r)) }

func (m measure) values(r Row) []float64 {
	var values []float64
	for _, s := range r.Seeds {
		if v := m.of(s); v != nil && finite(*v) {
			values = append(values, *v)
		}
	}
	return values
}

// text is the measure of the row as it stands in the table: "0.802 ± 0.031", with "(2 of 3)" when seeds are missing.
func (m measure) text(r Row) string {
	s := m.summary(r)
	out := s.text(m.digits)
	if s.N > 0 && s.N < len(r.Seeds) {
		out += fmt.Sprintf(" (%d of %d)", s.N, len(r.Seeds))
	}
	return out
}

const missing = "–"

// text is mean ± sd, the mean alone for one value, or the sign for a missing one.
func (s summary) text(digits int) string {
	switch s.N {
	case 0:
		return missing
	case 1:
		return number(s.Mean, digits)
	default:
		return number(s.Mean, digits) + " ± " + number(s.SD, digits)
	}
}

func number(v float64, digits int) string {
	if !finite(v) {
		return missing
	}
	return fmt.Sprintf("%.*f", digits, v)
}

func percent(share float64, digits int) string {
	if !finite(share) {
		return missing
	}
	return fmt.Sprintf("%.*f %%", digits, 100*share)
}
