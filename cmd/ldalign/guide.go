package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/ldalign/ldalign/ops/guides"
	"github.com/ldalign/ldalign/ops/pipeline"
	"github.com/ldalign/ldalign/ops/progress"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/ops/telemetry"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/activity"
)

type guideCommand struct {
	Train   guideTrainCommand   `cmd:"" help:"Sample iteration 0, train and publish the guide, and stop." tensors:"unless dry-run"`
	Inspect guideInspectCommand `cmd:"" help:"Show whether a guide's distances are meaningful."`
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

Samples the responses of iteration 0, trains the guide on them and publishes it. If data.eval is set, it also evaluates the first
policy, for the two-sample test. Afterwards ldalign up with the same spec continues with this guide, and other runs can use it
with guide.from: run:NAME. However it was stopped, the same command continues.`
}

func (c *guideTrainCommand) Run(ctx context.Context, e *env) (err error) {
	specs, err := loadSpecs(c.Spec, c.Set, c.serverFlags)
	if err != nil {
		return err
	}
	if specs, err = schemas.ResolveAll(specs); err != nil {
		return err
	}
	if len(specs) != 1 {
		return fmt.Errorf("%w: %s has %d runs, want one", errUsage, c.Spec, len(specs))
	}
	spec := specs[0]
	if !spec.NeedsGuide() || spec.Guide.From != "" {
		return fmt.Errorf("%w: run %s trains no guide of its own: set objective.kind: ldalign, an objective.distance "+
			"other than given, and an empty guide.from", errUsage, spec.Run)
	}
	if c.DryRun {
		return e.dryRun(ctx, specs)
	}
	o := runs.Options{Servers: spec.Servers, Limits: spec.Streams, Name: "ldalign-guide"}
	return e.opened(ctx, o, func(s *runs.Session) error {
		return withEngine(spec.Compute, func(engine *pipeline.Engine) error { return e.trainGuide(ctx, s, engine, spec) })
	})
}

// trainGuide trains the guide of a run and prints how good it is.
func (e *env) trainGuide(ctx context.Context, s *runs.Session, engine *pipeline.Engine, spec schemas.Spec) error {
	screen := telemetry.NewScreen(e.display)
	defer screen.End(spec.Run)
	if err := e.player(s, engine, screen).Guide(ctx, spec); activity.Interrupted(err) {
		return goesOn(spec.Run)
	} else if err != nil {
		return fmt.Errorf("run %s: %w", spec.Run, err)
	}
	in, err := guides.Inspect(ctx, s, spec)
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

Three things make a guide useful. Its decoder uses the latent: reconstruction with another prompt's latent is worse than with
the right one (the gap). Latents differ: distances do not shrink to 0. And distances agree with quality: of two samples for one
held-out prompt, the nearer one has the better score more often than not (the two-sample test).`
}

func (c *guideInspectCommand) Run(ctx context.Context, e *env) error {
	return e.attached(ctx, c.servers(), func(s *runs.Session) error { return c.run(ctx, e, s) })
}

func (c *guideInspectCommand) run(ctx context.Context, e *env, s *runs.Session) (err error) {
	spec, err := runs.Spec(ctx, s, c.Name)
	if err != nil {
		return err
	}
	in, err := guides.Inspect(ctx, s, spec)
	if err != nil {
		return err
	}
	return e.printGuide(in)
}

func (e *env) printGuide(in guides.Guide) error {
	if e.json {
		return printJSON(e.stdout, []guides.Guide{in})
	}
	writeGuide(e.stdout, in)
	return nil
}

// writeGuide writes an inspection for people.
func writeGuide(w io.Writer, in guides.Guide) {
	fmt.Fprintf(w, "guide of run %s (digest %.12s), %s\n", in.GuideRun, in.Digest, progress.Count(int64(in.Steps), "steps"))
	fmt.Fprintf(w, "latent: %d numbers, pooling %s, injection %s\nencoder: %s\ndecoder: %s\n",
		in.LatentDim, in.Pooling, in.Injection, in.Encoder, in.Decoder)
	fmt.Fprintf(w, "reconstruction: %.4f nats with the right latent, %.4f with another prompt's: gap %.4f\n",
		in.True, in.Shuffled, in.Gap)
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
