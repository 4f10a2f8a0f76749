package result

import (
	"strings"

	"github.com/ldalign/ldalign/schemas/events"
)

// Names of a result's metrics. Shares and scores are in [0, 1]. A metric that does not apply is absent.
const (
	GreedyExact   = "greedy_exact"
	GreedyGraded  = "greedy_graded"
	SampledExact  = "sampled_exact"
	SampledGraded = "sampled_graded"
	// DistanceMean is the mean of s over all samples.
	DistanceMean = "distance_mean"
	// SampledLength is the mean number of tokens of a sample.
	SampledLength = "sampled_length"
	// IdenticalShare is the share of samples that equal the human response, apart from outer white space.
	IdenticalShare = "identical_share"
	// Refused counts the held-out prompts that the length rule or the template refuses; absent when there are none.
	Refused = "refused"
)

// Summarise turns details into metrics, in a fixed order.
func Summarise(details []Detail, scorer string) []*events.Metric {
	var greedyExact, greedyGraded, exact, graded, distances, lengths, identical mean
	for _, d := range details {
		greedyExact.add(share(d.Greedy.Exact))
		greedyGraded.add(d.Greedy.Graded)
		for _, a := range d.Samples {
			exact.add(share(a.Exact))
			graded.add(a.Graded)
			lengths.add(float64(a.Tokens))
			identical.add(share(a.Text == strings.TrimSpace(d.Response)))
			if a.Distance != nil {
				distances.add(*a.Distance)
			}
		}
	}
	var out []*events.Metric
	emit := func(name string, m mean) {
		if m.n > 0 {
			out = append(out, &events.Metric{Name: name, Value: m.sum / m.n})
		}
	}
	if scorer != "none" {
		emit(GreedyExact, greedyExact)
		emit(SampledExact, exact)
	}
	if scorer == "graded" {
		emit(GreedyGraded, greedyGraded)
		emit(SampledGraded, graded)
	}
	emit(DistanceMean, distances)
	emit(SampledLength, lengths)
	emit(IdenticalShare, identical)
	return out
}

type mean struct{ sum, n float64 }

func (m *mean) add(x float64) {
	m.sum += x
	m.n++
}

func share(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
