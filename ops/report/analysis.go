package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// count is agreement in n decided pairs.
type count struct{ agree, n int }

func (c count) plus(d count) count { return count{c.agree + d.agree, c.n + d.n} }

// TwoSampleTest counts the pairs of samples whose scores differ, and in how many of them the strictly smaller distance
// belongs to the better score. With inexact, only pairs in which neither answer is exact: an exact one has distance 0.
func TwoSampleTest(pairs []SamplePair, inexact bool) (agree, differing int) {
	c := agreementOf(pairs, inexact)
	return c.agree, c.n
}

// agreementOf counts the pairs whose scores differ, and in how many of them the strictly smaller distance belongs to
// the better score: equal distances do not agree. With inexact, only pairs in which neither answer is exact.
func agreementOf(pairs []SamplePair, inexact bool) count {
	var c count
	for _, p := range pairs {
		numbers := finite(p.DistanceA) && finite(p.DistanceB) && finite(p.ScoreA) && finite(p.ScoreB)
		if !numbers || p.ScoreA == p.ScoreB || inexact && (p.ExactA || p.ExactB) {
			continue
		}
		c.n++
		if p.DistanceA < p.DistanceB == (p.ScoreA > p.ScoreB) && p.DistanceA != p.DistanceB {
			c.agree++
		}
	}
	return c
}

// distanceGroup is what the pairs of one method and iteration say; summaries are over seeds.
type distanceGroup struct {
	method    string
	iteration int
	pairs     int // of all seeds
	broken    int // pairs left out: their distance is not finite
	identical summary
	mean      summary // of all pairs
	differing summary // mean over the differing pairs
	max       float64
	maxWeight float64
	essShare  summary   // effective sample size / pairs; N = 0 without weights
	values    []float64 // distances of the differing pairs, all seeds
}

func (g distanceGroup) title() string {
	return fmt.Sprintf("%s, iteration %d", clean(g.method), g.iteration)
}

// groupDistances brings the seeds of a method and iteration together: methods in the order of their appearance,
// iterations ascending.
func groupDistances(all []Distances) []distanceGroup {
	type key struct {
		method    string
		iteration int
	}
	var order []key
	members := map[key][]Distances{}
	rank := map[string]int{}
	for _, d := range all {
		if _, ok := rank[d.Method]; !ok {
			rank[d.Method] = len(rank)
		}
		k := key{d.Method, d.Iteration}
		if members[k] == nil {
			order = append(order, k)
		}
		members[k] = append(members[k], d)
	}
	slices.SortStableFunc(order, func(a, b key) int {
		return cmp.Or(cmp.Compare(rank[a.method], rank[b.method]), cmp.Compare(a.iteration, b.iteration))
	})
	var out []distanceGroup
	for _, k := range order {
		out = append(out, newDistanceGroup(k.method, k.iteration, members[k]))
	}
	return out
}

func newDistanceGroup(method string, iteration int, seeds []Distances) distanceGroup {
	g := distanceGroup{method: method, iteration: iteration}
	var identical, mean, differing, ess []float64
	for _, d := range seeds {
		var all, apart, weights []float64
		same := 0
		for _, p := range d.Pairs {
			if !finite(p.Distance) || p.Distance < 0 || !finite(p.Weight) {
				g.broken++
				continue
			}
			all = append(all, p.Distance)
			weights = append(weights, p.Weight)
			g.max = max(g.max, p.Distance)
			g.maxWeight = max(g.maxWeight, p.Weight)
			if p.Identical {
				same++
			} else {
				apart = append(apart, p.Distance)
			}
		}
		if len(all) == 0 {
			continue
		}
		g.pairs += len(all)
		g.values = append(g.values, apart...)
		identical = append(identical, float64(same)/float64(len(all)))
		mean = append(mean, summarise(all).Mean)
		if len(apart) > 0 {
			differing = append(differing, summarise(apart).Mean)
		}
		if e := effectiveSampleSize(weights); e > 0 {
			ess = append(ess, e/float64(len(all)))
		}
	}
	g.identical, g.mean = summarise(identical), summarise(mean)
	g.differing, g.essShare = summarise(differing), summarise(ess)
	return g
}

// agreementGroup is the two-sample test of one method and iteration, all seeds together.
type agreementGroup struct {
	method       string
	iteration    int
	all, inexact count
}

func groupAgreement(all []Agreement) []agreementGroup {
	var out []agreementGroup
	for _, a := range all {
		i := slices.IndexFunc(out, func(g agreementGroup) bool { return g.method == a.Method && g.iteration == a.Iteration })
		if i < 0 {
			i = len(out)
			out = append(out, agreementGroup{method: a.Method, iteration: a.Iteration})
		}
		out[i].all = out[i].all.plus(agreementOf(a.Pairs, false))
		out[i].inexact = out[i].inexact.plus(agreementOf(a.Pairs, true))
	}
	return out
}

// exampleGroup is a few pairs of one kind.
type exampleGroup struct {
	Title    string
	Examples []Example
}

const examplesEach = 3

// pickExamples takes the largest, median and smallest distances among the pairs that differ; identical is how many do
// not.
func pickExamples(all []Example) (groups []exampleGroup, identical int) {
	var differing []Example
	for _, e := range all {
		if e.Chosen == e.Rejected {
			identical++
		} else if finite(e.Distance) {
			differing = append(differing, e)
		}
	}
	slices.SortStableFunc(differing, func(a, b Example) int { return cmp.Compare(b.Distance, a.Distance) })
	n := len(differing)
	if n == 0 {
		return nil, identical
	}
	if n <= 3*examplesEach {
		return []exampleGroup{{"From the largest distance to the smallest", differing}}, identical
	}
	from := n/2 - examplesEach/2
	return []exampleGroup{
		{"Largest distance", differing[:examplesEach]},
		{"Median distance", differing[from : from+examplesEach]},
		{"Smallest distance", differing[n-examplesEach:]},
	}, identical
}

// clean makes a name fit one line: control characters become spaces.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}
