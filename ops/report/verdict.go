package report

import (
	"fmt"
	"math"
	"strings"
)

// Outcome of comparing two rows on one measure.
type Outcome string

// The outcomes. NotJudged is for a missing value, and for a single seed of a measure whose sampling error has no bound.
const (
	Better    Outcome = "better"
	Worse     Outcome = "worse"
	Tie       Outcome = "tie"
	NotJudged Outcome = "not judged"
)

// Rule is how a comparison is decided, in the words of the page.
const Rule = "A difference of two means counts as better or worse only when it is larger than the spread; else it " +
	"is a tie. The spread is the sum of the two rows' standard deviations over seeds (the bands mean ± sd do not " +
	"overlap) or, for scores in [0, 1], the 95 % sampling error of the held-out prompts, 1.96·√(p(1−p)/n + q(1−q)/m) " +
	"for means p and q of n and m prompts over all seeds, whichever is larger. " +
	"A smaller mean distance is better. One seed without a bound on its error is not judged."

// Comparison is the subject's row against another on one measure.
type Comparison struct {
	Measure string  `json:"measure"`
	Subject string  `json:"subject"`
	Against string  `json:"against"`
	Outcome Outcome `json:"outcome"`
	// Difference is the subject's mean minus the other's. Both numbers are 0 when a value is missing.
	Difference float64 `json:"difference"`
	Spread     float64 `json:"spread"`

	subject, against float64 // means
	digits           int
	score            bool
}

// Finding is a further observation about the numbers.
type Finding struct {
	// Warning marks a finding that is a reason not to trust or continue the run.
	Warning bool   `json:"warning"`
	Text    string `json:"text"`
}

// Verdict says whether the alignment worked.
type Verdict struct {
	Headline    string       `json:"headline"`
	Comparisons []Comparison `json:"comparisons,omitempty"`
	Findings    []Finding    `json:"findings,omitempty"`
}

// Judge derives the verdict from the numbers by Rule, and findings by the thresholds that their texts name.
func Judge(in Input) Verdict {
	v := Verdict{Comparisons: compare(in)}
	v.Headline = headline(in, v.Comparisons)
	v.Findings = append(v.Findings, rivals(in, v.Comparisons)...)
	v.Findings = append(v.Findings, guideFindings(in.Guides)...)
	v.Findings = append(v.Findings, agreementFindings(in)...)
	v.Findings = append(v.Findings, distanceFindings(in)...)
	v.Findings = append(v.Findings, curveFindings(in.Curves)...)
	return v
}

func compare(in Input) []Comparison {
	subject, ok := findRow(in.Rows, in.Subject)
	if !ok {
		return nil
	}
	var out []Comparison
	for _, name := range in.Against {
		other, ok := findRow(in.Rows, name)
		if !ok {
			continue
		}
		for _, m := range measures() {
			if m.better != 0 {
				out = append(out, m.compare(subject, other, in.HeldOut))
			}
		}
	}
	return out
}

func findRow(rows []Row, method string) (Row, bool) {
	for _, r := range rows {
		if r.Method == method && method != "" {
			return r, true
		}
	}
	return Row{}, false
}

func (m measure) compare(subject, other Row, heldOut int) Comparison {
	a, b := m.summary(subject), m.summary(other)
	c := Comparison{
		Measure: m.name, Subject: subject.Method, Against: other.Method, Outcome: NotJudged,
		subject: a.Mean, against: b.Mean, digits: m.digits, score: m.score,
	}
	if a.N == 0 || b.N == 0 {
		return c
	}
	c.Difference = a.Mean - b.Mean
	bounded := m.score && heldOut > 0
	if bounded {
		variance := a.Mean*(1-a.Mean)/float64(a.N) + b.Mean*(1-b.Mean)/float64(b.N)
		c.Spread = z95 * math.Sqrt(max(0, variance)/float64(heldOut))
	}
	if a.N > 1 && b.N > 1 {
		c.Spread = max(c.Spread, a.SD+b.SD)
	} else if !bounded {
		return c
	}
	switch {
	case math.Abs(c.Difference) <= c.Spread:
		c.Outcome = Tie
	case c.Difference*m.better > 0:
		c.Outcome = Better
	default:
		c.Outcome = Worse
	}
	return c
}

// text is "0.802 against 0.597, +0.205, spread 0.050".
func (c Comparison) text() string {
	return fmt.Sprintf("%s %s against %s, %+.*f, spread %s", c.Measure, number(c.subject, c.digits),
		number(c.against, c.digits), c.digits, c.Difference, number(c.Spread, c.digits))
}

// leading orders the measures for the headline: sampled answers show an effect before greedy ones do.
func leading() []string {
	return []string{"sampled exact", "sampled graded", "greedy exact", "greedy graded", "mean distance"}
}

// lead returns the first judged comparison with the row, in the order of leading. One in which both values are 0 comes last:
// answers in free text are never exact, so two zeros say nothing about them.
func lead(all []Comparison, against string) (first Comparison, found bool) {
	for _, name := range leading() {
		for _, c := range all {
			if c.Measure != name || c.Against != against || c.Outcome == NotJudged {
				continue
			}
			if c.subject != 0 || c.against != 0 {
				return c, true
			}
			if !found {
				first, found = c, true
			}
		}
	}
	return first, found
}

// headline compares the subject with its start.
func headline(in Input, all []Comparison) string {
	if in.Subject == "" || len(in.Against) == 0 {
		return "Not judged: nothing was named to be compared."
	}
	start := in.Against[0]
	for _, name := range []string{in.Subject, start} {
		if _, ok := findRow(in.Rows, name); !ok {
			return fmt.Sprintf("Not judged: the table has no row %q.", clean(name))
		}
	}
	c, ok := lead(all, start)
	if !ok {
		return fmt.Sprintf("Not judged: %s and %s share no measure that can be judged (one seed without scores, or none).",
			clean(in.Subject), clean(start))
	}
	detail := fmt.Sprintf("(%s)", c.text())
	subject, start := clean(c.Subject), clean(start)
	switch c.Outcome {
	case Tie:
		return fmt.Sprintf("No clear change: %s and %s are within the spread %s.", subject, start, detail)
	case Worse:
		return fmt.Sprintf("It did not work: %s is worse than %s %s.", subject, start, detail)
	case Better, NotJudged: // lead gives judged ones only
	}
	for _, other := range all {
		if other.Against == c.Against && other.score && other.Outcome == Worse {
			return fmt.Sprintf("It worked in part: %s is better than %s %s, but worse in another score (%s).",
				subject, start, detail, other.text())
		}
	}
	return fmt.Sprintf("It worked: %s is better than %s %s.", subject, start, detail)
}

// rivals says, for every row but the start, how the subject compares.
func rivals(in Input, all []Comparison) []Finding {
	var out []Finding
	for i, name := range in.Against {
		if i == 0 {
			continue
		}
		c, ok := lead(all, name)
		if !ok {
			continue
		}
		word := map[Outcome]string{Better: "is better than", Worse: "is worse than", Tie: "ties with"}[c.Outcome]
		out = append(out, Finding{Text: fmt.Sprintf("%s %s %s (%s).", clean(c.Subject), word, clean(name), c.text())})
	}
	return out
}

func guideFindings(guides []Guide) []Finding {
	var exact, shuffled []float64
	for _, g := range guides {
		if finite(g.True) && finite(g.Shuffled) {
			exact, shuffled = append(exact, g.True), append(shuffled, g.Shuffled)
		}
	}
	if len(exact) == 0 {
		return nil
	}
	t, s := summarise(exact).Mean, summarise(shuffled).Mean
	if s-t < 0.01*t {
		return []Finding{{true, fmt.Sprintf("The guide's decoder hardly uses the latent: reconstruction %.3f nats per "+
			"token with the true latent, %.3f with a shuffled one (less than 1 %% apart). Distances mean little.", t, s)}}
	}
	return []Finding{{false, fmt.Sprintf("The guide's decoder uses the latent: reconstruction %.3f nats per token with "+
		"the true latent, %.3f with a shuffled one.", t, s)}}
}

// agreementFindings judges the pairs in which neither answer is exact: pairs with an exact answer are easy, for its
// distance is 0. It takes the one row with the most such pairs, for rows share their prompts and cannot be added up.
func agreementFindings(in Input) []Finding {
	var most agreementGroup
	for _, g := range groupAgreement(in.Agreement) {
		if g.inexact.n > most.inexact.n {
			most = g
		}
	}
	c := most.inexact
	if c.n == 0 {
		return nil
	}
	low, high := wilson(c.agree, c.n)
	f := Finding{Text: "does not show that it ranks answers better than chance", Warning: true}
	switch {
	case low > 0.5:
		f = Finding{Text: "ranks answers better than chance"}
	case high < 0.5:
		f.Text = "ranks answers worse than chance"
	}
	f.Text = fmt.Sprintf("Where neither of two samples is exact, the smaller distance picks the better one in %d of %d "+
		"pairs (%s, iteration %d: %.0f %%, interval %.0f–%.0f %%): the guide %s.",
		c.agree, c.n, clean(most.method), most.iteration, 100*float64(c.agree)/float64(c.n), 100*low, 100*high, f.Text)
	return []Finding{f}
}

func distanceFindings(in Input) []Finding {
	var out []Finding
	for _, g := range groupDistances(in.Distances) {
		if g.pairs > 0 && g.identical.Mean >= 0.9 {
			out = append(out, Finding{true, fmt.Sprintf("%s: %.0f %% of the samples equal the human answer (90 %% or more): "+
				"little is left to align.", g.title(), 100*g.identical.Mean)})
		}
		if g.essShare.N > 0 && g.essShare.Mean < 0.1 {
			out = append(out, Finding{true, fmt.Sprintf("%s: the weights are carried by %.0f %% of the pairs (effective "+
				"sample size under 10 %%).", g.title(), 100*g.essShare.Mean)})
		}
	}
	return out
}

// curveFindings warns of likelihood displacement (the chosen answers became less likely at the end of training) and of
// numbers that are not finite.
func curveFindings(curves []Curve) []Finding {
	var fallen, broken []string
	for _, c := range curves {
		var change []float64
		bad := false
		for _, s := range c.Steps {
			if v := chosenChange()(s); v != nil && finite(*v) {
				change = append(change, *v)
			}
			for _, of := range []value{loss, gradNorm, chosenChange(), rejectedChange()} {
				v := of(s)
				bad = bad || v != nil && !finite(*v)
			}
		}
		name := fmt.Sprintf("%s (seed %d)", clean(c.Method), c.Seed)
		if bad {
			broken = append(broken, name)
		}
		if tail := change[len(change)-(len(change)+9)/10:]; len(tail) > 0 && summarise(tail).Mean < 0 {
			fallen = append(fallen, name)
		}
	}
	var out []Finding
	if len(fallen) > 0 {
		out = append(out, Finding{true, "Likelihood displacement: over the last tenth of the steps the chosen answers are " +
			"less likely than under the reference in " + strings.Join(fallen, ", ") + "."})
	}
	if len(broken) > 0 {
		out = append(out, Finding{true, "The training log has values that are not finite in " + strings.Join(broken, ", ") + "."})
	}
	return out
}
