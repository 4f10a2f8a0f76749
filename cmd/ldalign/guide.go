package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/ops/play"
	"github.com/ldalign/ldalign/ops/progress"
	"github.com/ldalign/ldalign/ops/report"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/ops/telemetry"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/curves"
)

type guideCommand struct {
	Train   guideTrainCommand   `cmd:"" help:"Sample iteration 0, train and publish the guide, and stop."`
	Inspect guideInspectCommand `cmd:"" help:"Show whether a guide's distances mean something."`
}

type guideTrainCommand struct {
	Spec   string   `arg:"" help:"Run spec (YAML) of one ldalign run." type:"existingfile"`
	Set    []string `help:"Override a key, e.g. --set guide.latent_dim=64." placeholder:"KEY=VALUE" sep:"none"`
	DryRun bool     `help:"Check the spec and its files, print the resolved spec, and stop."`
	serverFlags
}

func (guideTrainCommand) Help() string {
	return `Example:

    ldalign guide train run.yaml
    ldalign guide inspect my-run

Generates the samples of iteration 0, trains the guide on them and publishes it. With data.eval the first policy is evaluated
too, for the two-sample test. ldalign up on the same spec then goes on with this guide, and other runs take it by
guide.from: run:NAME. Stopped in any way, the same command goes on.`
}

func (c *guideTrainCommand) Run(ctx context.Context, e *env) (err error) {
	specs, err := loadSpecs(c.Spec, c.Set, c.serverFlags)
	if err != nil {
		return err
	}
	if specs, err = resolve(specs); err != nil {
		return err
	}
	if len(specs) != 1 {
		return fmt.Errorf("%w: %s holds %d runs; a guide is trained for one", errUsage, c.Spec, len(specs))
	}
	spec := specs[0]
	if !spec.NeedsGuide() || spec.Guide.From != "" {
		return fmt.Errorf("%w: run %s trains no guide of its own: that takes objective.kind: ldalign, distances that are not "+
			"given, and an empty guide.from", errUsage, spec.Run)
	}
	if c.DryRun {
		return e.dryRun(specs)
	}
	o := runs.Options{Servers: spec.Servers, Limits: spec.Streams, Name: "ldalign-guide"}
	return e.opened(ctx, o, func(s *runs.Session) error {
		return play.WithEngine(spec.Compute, func(engine *tensor.Engine) error { return e.trainGuide(ctx, s, engine, spec) })
	})
}

// trainGuide trains the guide of a run and prints how good it is.
func (e *env) trainGuide(ctx context.Context, s *runs.Session, engine *tensor.Engine, spec schemas.Spec) error {
	screen := telemetry.NewScreen(e.display)
	defer screen.End(spec.Run)
	if err := e.player(s, engine, screen).Guide(ctx, spec); play.Interrupted(err) {
		return goesOn(spec.Run)
	} else if err != nil {
		return fmt.Errorf("run %s: %w", spec.Run, err)
	}
	in, err := e.node(s).inspectGuide(ctx, spec)
	if err != nil {
		return err
	}
	return e.printGuide(in)
}

type guideInspectCommand struct {
	Name string `arg:"" name:"run" help:"Name of a run that uses a guide."`
	serverFlags
}

func (guideInspectCommand) Help() string {
	return `Example:

    ldalign guide inspect my-run
    ldalign guide inspect my-run --json | jq .gap

Three things make a guide useful. Its decoder needs the latent: reconstruction by another prompt's latent is worse than by the
own (the gap). Latents differ: distances do not shrink to 0. And distances mean something: of two samples for one held-out
prompt, the nearer one is the better one by the program's score more often than not (the two-sample test).`
}

func (c *guideInspectCommand) Run(ctx context.Context, e *env) error {
	return e.attached(ctx, c.servers(), func(s *runs.Session) error { return c.run(ctx, e, s) })
}

func (c *guideInspectCommand) run(ctx context.Context, e *env, s *runs.Session) (err error) {
	n := e.node(s)
	specs, err := n.specsOf(ctx, []string{c.Name})
	if err != nil {
		return err
	}
	in, err := n.inspectGuide(ctx, specs[0])
	if err != nil {
		return err
	}
	return e.printGuide(in)
}

// guideInspection is what guide inspect prints with --json.
type guideInspection struct {
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
	// Reconstruction losses by the own latent and by another prompt's, and the difference, in nats.
	True     float64 `json:"reconstruction"`
	Shuffled float64 `json:"reconstruction_shuffled"`
	Gap      float64 `json:"gap"`
	// Norm is the mean length of a latent.
	Norm      float64      `json:"latent_norm"`
	Distances distanceView `json:"distances"`
	// TwoSample is the test for every policy that was evaluated with this guide.
	TwoSample []twoSample `json:"two_sample,omitempty"`
	// Warning says what is wrong with the guide; empty when nothing is seen.
	Warning string `json:"warning,omitempty"`
}

// distanceView are the distances of the pairs of iteration 0 whose responses differ.
type distanceView struct {
	// Of says which pairs: scored (the whole iteration) or probe (those looked at when the guide was trained).
	Of        string        `json:"of"`
	Pairs     int           `json:"pairs"`
	Identical float64       `json:"identical_share"`
	Mean      float64       `json:"mean"`
	P10       float64       `json:"p10"`
	Median    float64       `json:"p50"`
	P90       float64       `json:"p90"`
	Max       float64       `json:"max"`
	Histogram []distanceBin `json:"histogram"`
}

type distanceBin struct {
	UpTo  float64 `json:"up_to"`
	Count int     `json:"count"`
}

// twoSample is the two-sample test on held-out prompts for one policy.
type twoSample struct {
	Policy string `json:"policy"`
	Pairs  int    `json:"pairs"`
	// Differing counts pairs of samples with different scores, Agree those whose nearer sample scores higher.
	Differing int     `json:"differing"`
	Agree     int     `json:"agree"`
	Rate      float64 `json:"rate"`
	// DifferingInexact and AgreeInexact are the same without the pairs in which a sample is the human answer itself, whose
	// distance of 0 decides them.
	DifferingInexact int `json:"differing_inexact"`
	AgreeInexact     int `json:"agree_inexact"`
	// RankCorrelation is Spearman's, of minus the distance and the score, over all samples.
	RankCorrelation float64 `json:"rank_correlation"`
}

// inspectGuide looks at the guide that a run uses.
func (n *node) inspectGuide(ctx context.Context, spec schemas.Spec) (guideInspection, error) {
	reference := spec.Guide.From
	if !spec.NeedsGuide() {
		if reference = spec.Evaluation.Guide; reference == "" {
			return guideInspection{}, fmt.Errorf("run %s uses no guide", spec.Run)
		}
	}
	in := guideInspection{Run: spec.Run, GuideRun: spec.GuideRun(reference)}
	manifest, err := n.Checkpoints.Latest(ctx, in.GuideRun, checkpoints.Guide)
	if errors.Is(err, checkpoints.ErrNoCheckpoint) {
		return in, fmt.Errorf("run %s has no guide yet (`ldalign guide train` trains one): %w", in.GuideRun, err)
	}
	if err != nil {
		return in, err
	}
	in.Digest, in.Steps = manifest.Digest, manifest.Step
	if err := n.describeGuide(ctx, manifest, &in); err != nil {
		return in, err
	}
	in.True, in.Shuffled = metric(manifest, "reconstruction"), metric(manifest, "reconstruction_shuffled")
	in.Gap, in.Norm = in.Shuffled-in.True, metric(manifest, "latent_norm")
	all, err := n.report(ctx, []schemas.Spec{spec}, spec.Run)
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
	probe := curves.Probe{Pairs: int(metric(manifest, "probe_pairs")), True: in.True, Shuffled: in.Shuffled, Norm: in.Norm}
	if file, ok := manifest.File(curves.ProbeFile); ok {
		data, err := n.Checkpoints.ReadFile(ctx, in.GuideRun, file)
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

// describeGuide reads guide.json.
func (n *node) describeGuide(ctx context.Context, manifest checkpoints.Manifest, in *guideInspection) error {
	file, ok := manifest.File(architecture.GuideConfigFile)
	if !ok {
		return fmt.Errorf("checkpoint %s has no %s", manifest.Key, architecture.GuideConfigFile)
	}
	data, err := n.Checkpoints.ReadFile(ctx, in.GuideRun, file)
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
func (v *distanceView) fill(apart []float64) {
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
		v.Histogram = append(v.Histogram, distanceBin{UpTo: v.Max * float64(k+1) / bins})
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

func testOf(a report.Agreement) twoSample {
	t := twoSample{Policy: a.Method, Pairs: len(a.Pairs)}
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

// spearman is the correlation of ranks; equal values share the mean of theirs. It is 0 where one side does not vary.
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

func (e *env) printGuide(in guideInspection) error {
	if e.json {
		return printJSON(e.stdout, []guideInspection{in})
	}
	in.print(e.stdout)
	return nil
}

func (in guideInspection) print(w io.Writer) {
	fmt.Fprintf(w, "guide of run %s (digest %.12s), %s\n", in.GuideRun, in.Digest, progress.Count(int64(in.Steps), "steps"))
	fmt.Fprintf(w, "latent: %d numbers, pooling %s, injection %s\nencoder: %s\ndecoder: %s\n",
		in.LatentDim, in.Pooling, in.Injection, in.Encoder, in.Decoder)
	fmt.Fprintf(w, "reconstruction: %.4f nats by the own latent, %.4f by another prompt's: gap %.4f\n", in.True, in.Shuffled, in.Gap)
	d := in.Distances
	fmt.Fprintf(w, "\ndistances of %d pairs of iteration 0 (%s), %.1f %% of them identical; of the others: mean %.4g, p10 %.4g, "+
		"p50 %.4g, p90 %.4g, max %.4g; mean norm of a latent %.4g\n",
		d.Pairs, d.Of, 100*d.Identical, d.Mean, d.P10, d.Median, d.P90, d.Max, in.Norm)
	most := 1
	for _, b := range d.Histogram {
		most = max(most, b.Count)
	}
	for _, b := range d.Histogram {
		fmt.Fprintf(w, "  up to %8.4g  %-40s %d\n", b.UpTo, strings.Repeat("#", (b.Count*40+most-1)/most), b.Count)
	}
	if len(in.TwoSample) > 0 {
		fmt.Fprintln(w, "\ntwo samples for a held-out prompt: is the nearer one the better one by the program's score?")
	}
	for _, t := range in.TwoSample {
		fmt.Fprintf(w, "  %s: in %d of %d pairs with different scores (%.1f %%; %d pairs in all), in %d of the %d where neither is "+
			"exact; rank correlation %.3f\n",
			t.Policy, t.Agree, t.Differing, 100*t.Rate, t.Pairs, t.AgreeInexact, t.DifferingInexact, t.RankCorrelation)
	}
	if in.Warning != "" {
		fmt.Fprintf(w, "\nwarning: %s\n", in.Warning)
	}
}
