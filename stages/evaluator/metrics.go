package evaluator

import "github.com/ldalign/ldalign/schemas/events"

// Names of a result's metrics. Shares and scores are in 0..1; a metric that does not apply is absent.
const (
	GreedyExact   = "greedy_exact"
	GreedyGraded  = "greedy_graded"
	SampledExact  = "sampled_exact"
	SampledGraded = "sampled_graded"
	// DistanceMean is the mean of s over all samples.
	DistanceMean = "distance_mean"
	// SampledLength is the mean number of tokens of a sample.
	SampledLength = "sampled_length"
	// IdenticalShare is the share of samples that equal the human response.
	IdenticalShare = "identical_share"
	// AgreementPairs counts prompts whose first two samples differ in score; AgreementRight those of them where the
	// smaller distance belongs to the better score. The paper's second analysis, with the program's score for the judge.
	AgreementPairs = "agreement_pairs"
	AgreementRight = "agreement_right"
	// AgreementInexactPairs and AgreementInexactRight are the same over prompts where neither sample is exact.
	AgreementInexactPairs = "agreement_inexact_pairs"
	AgreementInexactRight = "agreement_inexact_right"
)

// Summarise turns details into metrics, in a fixed order. It is a pure function.
func Summarise(details []Detail, scorer string) []*events.Metric {
	var greedyExact, greedyGraded, exact, graded, distances, lengths, identical mean
	var pairs, right, inexactPairs, inexactRight float64
	for _, d := range details {
		greedyExact.add(share(d.Greedy.Exact))
		greedyGraded.add(d.Greedy.Graded)
		for _, a := range d.Samples {
			exact.add(share(a.Exact))
			graded.add(a.Graded)
			lengths.add(float64(a.Tokens))
			identical.add(share(a.Text == d.Response))
			if a.Distance != nil {
				distances.add(*a.Distance)
			}
		}
		if len(d.Samples) < 2 {
			continue
		}
		a, b := d.Samples[0], d.Samples[1]
		if a.Distance == nil || b.Distance == nil || a.Graded == b.Graded {
			continue
		}
		agrees := share(*a.Distance != *b.Distance && (*a.Distance < *b.Distance) == (a.Graded > b.Graded))
		pairs++
		right += agrees
		if !a.Exact && !b.Exact {
			inexactPairs++
			inexactRight += agrees
		}
	}
	var out []*events.Metric
	emit := func(name string, value float64) { out = append(out, &events.Metric{Name: name, Value: value}) }
	emitMean := func(name string, m mean) {
		if m.n > 0 {
			emit(name, m.sum/m.n)
		}
	}
	if scorer != "none" {
		emitMean(GreedyExact, greedyExact)
		emitMean(SampledExact, exact)
	}
	if scorer == "graded" {
		emitMean(GreedyGraded, greedyGraded)
		emitMean(SampledGraded, graded)
	}
	emitMean(DistanceMean, distances)
	emitMean(SampledLength, lengths)
	emitMean(IdenticalShare, identical)
	if scorer == "graded" && distances.n > 0 {
		emit(AgreementPairs, pairs)
		emit(AgreementRight, right)
		emit(AgreementInexactPairs, inexactPairs)
		emit(AgreementInexactRight, inexactRight)
	}
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
