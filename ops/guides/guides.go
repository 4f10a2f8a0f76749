// Package guides checks whether a run's guide is useful: whether its decoder uses the latent, whether latents differ, and
// whether distances agree with scores. It reads checkpoints and streams, and needs no tensors.
package guides

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/ops/report"
	"github.com/ldalign/ldalign/ops/report/collect"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/curves"
)

// Guide describes a run's guide, and how good it is.
type Guide struct {
	Run string `json:"run"`
	// GuideRun is the run that trained the guide.
	GuideRun  string `json:"guide_run"`
	Digest    string `json:"digest"`
	LatentDim int    `json:"latent_dim"`
	Pooling   string `json:"pooling"`
	Injection string `json:"injection"`
	Encoder   string `json:"encoder"`
	Decoder   string `json:"decoder"`
	Steps     uint64 `json:"steps"`
	// True and Shuffled are the reconstruction losses with the right latent and with another prompt's, in nats. Gap is Shuffled
	// minus True.
	True     float64 `json:"reconstruction"`
	Shuffled float64 `json:"reconstruction_shuffled"`
	Gap      float64 `json:"gap"`
	// Norm is the mean length of a latent.
	Norm      float64   `json:"latent_norm"`
	Distances Distances `json:"distances"`
	// TwoSample is the test for every policy that was evaluated with this guide.
	TwoSample []TwoSample `json:"two_sample,omitempty"`
	// Warning says what is wrong with the guide; empty if nothing was found.
	Warning string `json:"warning,omitempty"`
}

// Distances are the distances of the pairs of iteration 0 whose responses differ.
type Distances struct {
	// Of says which pairs were measured: scored (the whole iteration) or probe (those probed while the guide was trained).
	Of        string  `json:"of"`
	Pairs     int     `json:"pairs"`
	Identical float64 `json:"identical_share"`
	Mean      float64 `json:"mean"`
	P10       float64 `json:"p10"`
	Median    float64 `json:"p50"`
	P90       float64 `json:"p90"`
	Max       float64 `json:"max"`
	Histogram []Bin   `json:"histogram"`
}

// Bin is one bar of a histogram.
type Bin struct {
	UpTo  float64 `json:"up_to"`
	Count int     `json:"count"`
}

// TwoSample is the result of the two-sample test on held-out prompts for one policy.
type TwoSample struct {
	Policy string `json:"policy"`
	Pairs  int    `json:"pairs"`
	// Differing is the number of sample pairs with different scores, Agree the number of those whose nearer sample scores higher.
	Differing int     `json:"differing"`
	Agree     int     `json:"agree"`
	Rate      float64 `json:"rate"`
	// DifferingInexact and AgreeInexact leave out the pairs in which a sample equals the human answer: its distance 0 decides them.
	DifferingInexact int `json:"differing_inexact"`
	AgreeInexact     int `json:"agree_inexact"`
	// RankCorrelation is Spearman's rank correlation between the negative distance and the score, over all samples.
	RankCorrelation float64 `json:"rank_correlation"`
}

// Inspect measures the guide that a run uses. It returns an error if the run uses no guide, or has none yet.
func Inspect(ctx context.Context, s *runs.Session, spec schemas.Spec) (Guide, error) {
	reference := spec.Guide.From
	if !spec.NeedsGuide() {
		if reference = spec.Evaluation.Guide; reference == "" {
			return Guide{}, fmt.Errorf("run %s uses no guide", spec.Run)
		}
	}
	in := Guide{Run: spec.Run, GuideRun: spec.GuideRun(reference)}
	manifest, err := s.Checkpoints.Latest(ctx, in.GuideRun, checkpoints.Guide)
	if errors.Is(err, checkpoints.ErrNoCheckpoint) {
		return in, fmt.Errorf("run %s has no guide yet (`ldalign guide train` trains one): %w", in.GuideRun, err)
	}
	if err != nil {
		return in, err
	}
	in.Digest, in.Steps = manifest.Digest, manifest.Step
	if err := in.describe(ctx, s, manifest); err != nil {
		return in, err
	}
	in.True, _ = manifest.Metric("reconstruction")
	in.Shuffled, _ = manifest.Metric("reconstruction_shuffled")
	in.Norm, _ = manifest.Metric("latent_norm")
	in.Gap = in.Shuffled - in.True
	all, err := collect.Report(ctx, s, []schemas.Spec{spec}, spec.Run)
	if err != nil {
		return in, err
	}
	var apart []float64
	for _, d := range all.Distances {
		if d.Iteration != 0 {
			continue
		}
		in.Distances.Of = "scored"
		for _, p := range d.Pairs {
			in.Distances.Pairs++
			if !p.Identical {
				apart = append(apart, p.Distance)
			}
		}
	}
	pairs, _ := manifest.Metric("probe_pairs")
	probe := curves.Probe{Pairs: int(pairs), True: in.True, Shuffled: in.Shuffled, Norm: in.Norm}
	if file, ok := manifest.File(curves.ProbeFile); ok {
		data, err := s.Checkpoints.ReadFile(ctx, in.GuideRun, file)
		if err != nil {
			return in, err
		}
		if probe, err = curves.ReadProbe(data); err != nil {
			return in, err
		}
		in.Warning = probe.Collapsed()
	}
	if in.Distances.Of == "" {
		in.Distances.Of, in.Distances.Pairs = "probe", probe.Pairs
		for _, d := range probe.Distances {
			if d > 0 {
				apart = append(apart, d)
			}
		}
	}
	in.Distances.fill(apart)
	for _, a := range all.Agreement {
		in.TwoSample = append(in.TwoSample, testOf(a))
	}
	return in, nil
}

// describe fills in what guide.json says.
func (in *Guide) describe(ctx context.Context, s *runs.Session, manifest checkpoints.Manifest) error {
	file, ok := manifest.File(architecture.GuideConfigFile)
	if !ok {
		return fmt.Errorf("checkpoint %s has no %s", manifest.Key, architecture.GuideConfigFile)
	}
	data, err := s.Checkpoints.ReadFile(ctx, in.GuideRun, file)
	if err != nil {
		return err
	}
	described, err := architecture.ParseGuide(data)
	if err != nil {
		return fmt.Errorf("checkpoint %s: %s: %w", manifest.Key, architecture.GuideConfigFile, err)
	}
	model := func(c architecture.Config) string {
		return fmt.Sprintf("%s, %d layers of width %d", c.Family, c.Layers, c.Hidden)
	}
	in.LatentDim, in.Pooling, in.Injection = described.Config.LatentDim, described.Config.Pooling, described.Config.Injection
	in.Encoder, in.Decoder = model(described.Encoder), model(described.Decoder)
	return nil
}

// fill summarises the distances of the pairs that differ.
func (v *Distances) fill(apart []float64) {
	if v.Pairs > 0 {
		v.Identical = 1 - float64(len(apart))/float64(v.Pairs)
	}
	n := len(apart)
	if n == 0 {
		return
	}
	slices.Sort(apart)
	at := func(share float64) float64 { return apart[int(share*float64(n-1)+0.5)] }
	v.P10, v.Median, v.P90, v.Max = at(0.1), at(0.5), at(0.9), apart[n-1]
	const bins = 12
	for k := range bins {
		v.Histogram = append(v.Histogram, Bin{UpTo: v.Max * float64(k+1) / bins})
	}
	for _, d := range apart {
		v.Mean += d / float64(n)
		k := bins - 1
		if v.Max > 0 {
			k = min(int(d/v.Max*bins), bins-1)
		}
		v.Histogram[k].Count++
	}
}

func testOf(a report.Agreement) TwoSample {
	t := TwoSample{Policy: a.Method, Pairs: len(a.Pairs)}
	t.Agree, t.Differing = report.TwoSampleTest(a.Pairs, false)
	t.AgreeInexact, t.DifferingInexact = report.TwoSampleTest(a.Pairs, true)
	if t.Differing > 0 {
		t.Rate = float64(t.Agree) / float64(t.Differing)
	}
	var near, scores []float64
	for _, p := range a.Pairs {
		near = append(near, -p.DistanceA, -p.DistanceB)
		scores = append(scores, p.ScoreA, p.ScoreB)
	}
	t.RankCorrelation = spearman(near, scores)
	return t
}

// spearman returns Spearman's rank correlation; equal values share their mean rank. It is 0 if x or y is constant.
func spearman(x, y []float64) float64 {
	a, b := places(x), places(y)
	middle := float64(len(x)-1) / 2
	var xy, xx, yy float64
	for i := range a {
		u, v := a[i]-middle, b[i]-middle
		xy += u * v
		xx += u * u
		yy += v * v
	}
	if xx == 0 || yy == 0 {
		return 0
	}
	return xy / math.Sqrt(xx*yy)
}

func places(x []float64) []float64 {
	order := make([]int, len(x))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int {
		switch {
		case x[i] < x[j]:
			return -1
		case x[i] > x[j]:
			return 1
		}
		return 0
	})
	out := make([]float64, len(x))
	for from := 0; from < len(order); {
		to := from
		for to < len(order) && x[order[to]] == x[order[from]] {
			to++
		}
		for _, i := range order[from:to] {
			out[i] = float64(from+to-1) / 2
		}
		from = to
	}
	return out
}
