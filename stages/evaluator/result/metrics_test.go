package result_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ldalign/ldalign/stages/evaluator/result"
)

// named is a metric as a test writes it.
type named struct {
	Name  string
	Value float64
}

func at(d float64) *float64 { return &d }

func TestSummarise(t *testing.T) {
	scored := []result.Detail{
		{
			Response: "yes",
			Greedy:   result.Sample{Text: "yes", Tokens: 2, Exact: true, Graded: 1},
			Samples: []result.Sample{
				{Text: "yes", Tokens: 2, Exact: true, Graded: 1, Distance: at(0)},
				{Text: "no", Tokens: 3, Graded: 0.25, Distance: at(3)},
			},
		},
		{
			Response: " no \n",
			Greedy:   result.Sample{Text: "maybe", Tokens: 4, Graded: 0.5},
			Samples: []result.Sample{
				{Text: "no", Tokens: 3, Exact: true, Graded: 1, Distance: at(1)},
				{Text: "", Tokens: 1, Graded: 0, Distance: at(4)},
			},
		},
	}
	unmeasured := []result.Detail{{
		Response: "yes", Samples: []result.Sample{{Text: "yes", Tokens: 2}, {Text: "or", Tokens: 5}, {Text: "no", Tokens: 2}},
	}}
	greedyOnly := []result.Detail{{Response: "yes", Greedy: result.Sample{Text: "yes", Exact: true, Graded: 1}}}
	tests := []struct {
		name    string
		details []result.Detail
		scorer  string
		want    []named
	}{
		{"graded", scored, "graded", []named{
			{"greedy_exact", 0.5},
			{"sampled_exact", 0.5},
			{"greedy_graded", 0.75},
			{"sampled_graded", 0.5625},
			{"distance_mean", 2},
			{"sampled_length", 2.25},
			{"identical_share", 0.5},
		}},
		{"exact", scored, "exact", []named{
			{"greedy_exact", 0.5}, {"sampled_exact", 0.5}, {"distance_mean", 2}, {"sampled_length", 2.25}, {"identical_share", 0.5},
		}},
		{"none", scored, "none", []named{{"distance_mean", 2}, {"sampled_length", 2.25}, {"identical_share", 0.5}}},
		{"without a guide", unmeasured, "none", []named{{"sampled_length", 3}, {"identical_share", 1. / 3}}},
		{"without samples", greedyOnly, "graded", []named{{"greedy_exact", 1}, {"greedy_graded", 1}}},
		{"nothing", nil, "graded", nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var got []named
			for _, m := range result.Summarise(test.details, test.scorer) {
				got = append(got, named{m.GetName(), m.GetValue()})
			}
			if diff := cmp.Diff(test.want, got, cmpopts.EquateApprox(0, 1e-12)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
