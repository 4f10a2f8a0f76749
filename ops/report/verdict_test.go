package report

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/trainer/curves"
)

// row with one value of sampled exact per seed.
func sampledRow(method string, values ...float64) Row {
	r := Row{Method: method}
	for i, v := range values {
		r.Seeds = append(r.Seeds, Scores{Seed: uint64(i), SampledExact: &v})
	}
	return r
}

func TestVerdictFollowsTheNumbers(t *testing.T) {
	start := sampledRow("SFT", 0.58, 0.60, 0.62) // ± 0.02
	for name, tc := range map[string]struct {
		subject Row
		start   Row
		heldOut int
		want    string
	}{
		"better":                       {sampledRow("LD", 0.78, 0.80, 0.82), start, 300, "It worked: LD is better than SFT"},
		"worse":                        {sampledRow("LD", 0.38, 0.40, 0.42), start, 300, "It did not work: LD is worse than SFT"},
		"bands overlap":                {sampledRow("LD", 0.61, 0.63, 0.65), start, 0, "No clear change: LD and SFT"},
		"bands apart":                  {sampledRow("LD", 0.63, 0.65, 0.67), start, 0, "It worked:"},
		"apart, but few prompts":       {sampledRow("LD", 0.63, 0.65, 0.67), start, 30, "No clear change:"},
		"one seed, many prompts":       {sampledRow("LD", 0.8), sampledRow("SFT", 0.6), 300, "It worked:"},
		"one seed, few prompts":        {sampledRow("LD", 0.8), sampledRow("SFT", 0.6), 20, "No clear change:"},
		"one seed, prompts not known":  {sampledRow("LD", 0.8), sampledRow("SFT", 0.6), 0, "Not judged: LD and SFT share no measure"},
		"nothing measured":             {sampledRow("LD"), start, 300, "Not judged: LD and SFT share no measure"},
		"the start is not a row":       {sampledRow("LD", 0.8), sampledRow("other", 0.6), 300, `Not judged: the table has no row "SFT"`},
		"not a number is not a value":  {sampledRow("LD", math.NaN()), start, 300, "Not judged:"},
		"equal to the last bit: a tie": {sampledRow("LD", 1, 1), sampledRow("SFT", 1, 1), 300, "No clear change:"},
	} {
		t.Run(name, func(t *testing.T) {
			in := Input{Rows: []Row{tc.start, tc.subject}, Subject: "LD", Against: []string{"SFT"}, HeldOut: tc.heldOut}
			if got := Judge(in).Headline; !strings.HasPrefix(got, tc.want) {
				t.Errorf("want %q…, got %q", tc.want, got)
			}
		})
	}
}

// TestComparisonByHand: p = 0.8, q = 0.6, 300 prompts, one seed: 1.96·√(0.16/300 + 0.24/300) = 0.07157.
func TestComparisonByHand(t *testing.T) {
	in := Input{
		Rows: []Row{sampledRow("SFT", 0.6), sampledRow("LD", 0.8)}, Subject: "LD", Against: []string{"SFT"}, HeldOut: 300,
	}
	for _, c := range Judge(in).Comparisons {
		if c.Measure != "sampled exact" {
			if c.Outcome != NotJudged {
				t.Errorf("%s was not measured, and is %s", c.Measure, c.Outcome)
			}
			continue
		}
		if c.Outcome != Better || !near(c.Difference, 0.2) || !near(c.Spread, 0.07157) {
			t.Errorf("want better by 0.2, spread 0.07157, got %+v", c)
		}
	}
}

// Where no answer is exact, as in free text, the graded score decides.
func TestVerdictWithoutExactAnswers(t *testing.T) {
	row := func(method string, exact, graded float64) Row {
		return Row{Method: method, Seeds: []Scores{{SampledExact: &exact, SampledGraded: &graded}}}
	}
	for _, c := range []struct {
		exact float64
		want  string
	}{
		{0, "It worked: LD is better than SFT (sampled graded 0.800 against 0.600"},
		{0.01, "No clear change: LD and SFT are within the spread (sampled exact 0.010 against 0.000"},
	} {
		in := Input{Rows: []Row{row("SFT", 0, 0.6), row("LD", c.exact, 0.8)}, Subject: "LD", Against: []string{"SFT"}, HeldOut: 300}
		if got := Judge(in).Headline; !strings.HasPrefix(got, c.want) {
			t.Errorf("want %q…, got %q", c.want, got)
		}
	}
}

func TestSmallerDistanceIsBetter(t *testing.T) {
	r := func(method string, values ...float64) Row {
		row := Row{Method: method}
		for _, v := range values {
			row.Seeds = append(row.Seeds, Scores{Distance: &v})
		}
		return row
	}
	in := Input{
		Rows: []Row{r("SFT", 2.0, 2.1), r("LD", 1.0, 1.1)}, Subject: "LD", Against: []string{"SFT"}, HeldOut: 300,
	}
	if got := Judge(in).Headline; !strings.HasPrefix(got, "It worked: LD is better than SFT (mean distance 1.050 against 2.050") {
		t.Errorf("got %q", got)
	}
	in.Rows = []Row{r("SFT", 2.0), r("LD", 1.0)}
	if got := Judge(in).Headline; !strings.HasPrefix(got, "Not judged") {
		t.Errorf("one seed gives no spread for distances: got %q", got)
	}
}

func TestWorkedInPart(t *testing.T) {
	row := func(method string, sampled, greedy float64) Row {
		return Row{Method: method, Seeds: []Scores{{SampledExact: &sampled, GreedyExact: &greedy}}}
	}
	in := Input{
		Rows: []Row{row("SFT", 0.6, 0.9), row("LD", 0.8, 0.5)}, Subject: "LD", Against: []string{"SFT"}, HeldOut: 300,
	}
	if got := Judge(in).Headline; !strings.HasPrefix(got, "It worked in part:") || !strings.Contains(got, "greedy exact 0.500") {
		t.Errorf("got %q", got)
	}
}

func TestFindings(t *testing.T) {
	changes := func(values ...float64) Curve {
		c := Curve{Method: "SPIN", Seed: 7, Objective: "spin"}
		for i := range values {
			c.Steps = append(c.Steps, curves.Step{Pairs: &curves.Pairs{ChosenChange: values[i]}})
		}
		return c
	}
	pairs := func(identical, differing int, weight float64) []PairDistance {
		var out []PairDistance
		for range identical {
			out = append(out, PairDistance{Identical: true, Weight: 0.001})
		}
		for range differing {
			out = append(out, PairDistance{Distance: 1, Weight: weight})
		}
		return out
	}
	samples := func(agree, disagree int) []Agreement {
		var out []SamplePair
		for range agree {
			out = append(out, SamplePair{DistanceA: 1, DistanceB: 2, ScoreA: 0.9, ScoreB: 0.1})
		}
		for range disagree {
			out = append(out, SamplePair{DistanceA: 1, DistanceB: 2, ScoreA: 0.1, ScoreB: 0.9})
		}
		return []Agreement{{Method: "LD", Pairs: out}}
	}
	for name, tc := range map[string]struct {
		in      Input
		warning bool
		want    string // "" for no finding
	}{
		"latent used":        {Input{Guides: []Guide{{True: 1.59, Shuffled: 1.81}}}, false, "uses the latent"},
		"latent ignored":     {Input{Guides: []Guide{{True: 1.59, Shuffled: 1.60}}}, true, "hardly uses the latent"},
		"guide ranks":        {Input{Agreement: samples(70, 30)}, false, "70 of 100 pairs (LD, iteration 0: 70 %, interval 60–78 %): the guide ranks answers better"},
		"guide is chance":    {Input{Agreement: samples(55, 45)}, true, "does not show"},
		"guide is wrong":     {Input{Agreement: samples(30, 70)}, true, "worse than chance"},
		"nothing to align":   {Input{Distances: []Distances{{Method: "LD", Pairs: pairs(9, 1, 0)}}}, true, "LD, iteration 0: 90 % of the samples"},
		"something left":     {Input{Distances: []Distances{{Method: "LD", Pairs: pairs(8, 2, 0.001)}}}, false, ""},
		"few carry all":      {Input{Distances: []Distances{{Method: "LD", Pairs: pairs(16, 4, 0)}, {Method: "SP", Pairs: pairs(17, 1, 9)}}}, true, "effective sample size under"},
		"chosen fell":        {Input{Curves: []Curve{changes(1, 1, 1, 1, 1, 1, 1, 1, 1, -0.1)}}, true, "Likelihood displacement: over the last tenth"},
		"chosen rose":        {Input{Curves: []Curve{changes(-1, -1, 0.5)}}, false, ""},
		"chosen not a thing": {Input{Curves: []Curve{{Objective: "sft", Steps: []curves.Step{{Loss: 1}}}}}, false, ""},
		"broken":             {Input{Curves: []Curve{changes(math.NaN())}}, true, "not finite in SPIN (seed 7)"},
	} {
		t.Run(name, func(t *testing.T) {
			got := Judge(tc.in).Findings
			if tc.want == "" {
				if len(got) != 0 {
					t.Errorf("want no finding, got %v", got)
				}
				return
			}
			if len(got) == 0 || got[len(got)-1].Warning != tc.warning || !strings.Contains(got[len(got)-1].Text, tc.want) {
				t.Errorf("want %q (warning %v), got %v", tc.want, tc.warning, got)
			}
		})
	}
}

func TestAgreementByHand(t *testing.T) {
	pairs := []SamplePair{
		{1, 2, 0.9, 0.1, false, false},          // agrees
		{2, 1, 0.1, 0.9, false, false},          // agrees, the other way round
		{1, 2, 0.1, 0.9, false, false},          // disagrees
		{1, 1, 0.1, 0.9, false, false},          // equal distances: disagrees
		{0, 2, 1, 0.1, true, false},             // agrees, but A is exact
		{1, 2, 0.5, 0.5, false, false},          // equal scores: not decided
		{math.NaN(), 2, 0.9, 0.1, false, false}, // not a number: left out
		{1, 2, 0.9, math.Inf(-1), false, false}, // likewise
	}
	if diff := cmp.Diff(count{3, 5}, agreementOf(pairs, false), cmp.AllowUnexported(count{})); diff != "" {
		t.Errorf("all pairs, -want +got:\n%s", diff)
	}
	if diff := cmp.Diff(count{2, 4}, agreementOf(pairs, true), cmp.AllowUnexported(count{})); diff != "" {
		t.Errorf("neither exact, -want +got:\n%s", diff)
	}
}

func TestDistanceGroupsPoolSeeds(t *testing.T) {
	in := []Distances{
		{Method: "SPIN", Iteration: 1, Pairs: []PairDistance{{2, 1, false}}},
		{Method: "LD", Iteration: 1, Seed: 1, Pairs: []PairDistance{{0, 0, true}, {4, 2, false}}},
		{Method: "LD", Iteration: 0, Seed: 1, Pairs: []PairDistance{{3, 0, false}, {math.Inf(1), 0, false}, {-1, 0, false}}},
		{Method: "LD", Iteration: 1, Seed: 2, Pairs: []PairDistance{{2, 1, false}, {2, 1, false}}},
	}
	var got [][]string
	for _, r := range distanceTable(groupDistances(in)).Rows {
		var row []string
		for _, c := range r {
			row = append(row, c.Text)
		}
		got = append(got, row)
	}
	want := [][]string{
		{"SPIN", "1", "1", "0.0 %", "2.000", "2.000", "2.000", "1.00", "100 %"},
		{"LD", "0", "1", "0.0 %", "3.000", "3.000", "3.000", "–", "–"},
		// means 2 and 2 over the seeds; of the differing pairs 4 and 2; ESS/pairs 1/2 and 1
		{"LD", "1", "4", "25.0 %", "2.000 ± 0.000", "3.000 ± 1.414", "4.000", "2.00", "75 %"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestPickExamples(t *testing.T) {
	var all []Example
	for _, s := range []float64{5, 1, 9, 3, 7, 2, 8, 4, 6, 10, 11} {
		all = append(all, Example{Chosen: "y", Rejected: "y'", Distance: s})
	}
	all = append(all, Example{Chosen: "y", Rejected: "y"})
	groups, identical := pickExamples(all)
	var got [][]float64
	for _, g := range groups {
		var s []float64
		for _, e := range g.Examples {
			s = append(s, e.Distance)
		}
		got = append(got, s)
	}
	if diff := cmp.Diff([][]float64{{11, 10, 9}, {7, 6, 5}, {3, 2, 1}}, got); diff != "" || identical != 1 {
		t.Errorf("identical %d, -want +got:\n%s", identical, diff)
	}
}

func TestSegmentsEndWithTheIteration(t *testing.T) {
	c := Curve{Steps: []curves.Step{
		{Loss: 1}, {Loss: math.Inf(1)}, {Loss: math.NaN()}, {Iteration: 1, Loss: 4}, {Iteration: 1, Loss: 5},
	}}
	got := segments(c.Steps, loss)
	if len(got) != 2 || len(got[0]) != 1 || len(got[1]) != 2 || got[1][1].X != 5 {
		t.Errorf("want steps 1 and 4, 5, got %v", got)
	}
	if diff := cmp.Diff([]float64{3.5}, boundaries([]Curve{c, c})); diff != "" {
		t.Errorf("boundaries, -want +got:\n%s", diff)
	}
	long := Curve{}
	for i := range 10_000 {
		long.Steps = append(long.Steps, curves.Step{Loss: float64(i)})
	}
	if got := segments(long.Steps, loss)[0]; len(got) != 400 || got[0].Y != 12 {
		t.Errorf("want 400 points, the first the mean 12 of 0…24, got %d, %v", len(got), got[0])
	}
}

// A step without pairs has no value of them, and one without differing pairs no accuracy: neither is 0.
func TestValuesThatAStepLacks(t *testing.T) {
	for name, of := range map[string]value{"margin": margin(), "chosen": chosenChange(), "rejected": rejectedChange(), "kl": kl()} {
		if v := of(curves.Step{}); v != nil {
			t.Errorf("%s of a step without pairs is %v", name, *v)
		}
	}
	for differing, want := range map[int]bool{0: false, 2: true} {
		v := percentOf(accuracy())(curves.Step{Pairs: &curves.Pairs{Differing: differing, Accuracy: 0.5}})
		if (v != nil) != want || v != nil && *v != 50 {
			t.Errorf("accuracy over %d differing pairs: %v", differing, v)
		}
	}
}
