package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/ldalign/ldalign/ops/report"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/lineage"
)

type compareCommand struct {
	Runs []string `arg:"" name:"run" help:"Runs that are set side by side, in the order of the table."`
	serverFlags
}

func (compareCommand) Help() string {
	return `Example:

    ldalign compare align-1 align-1-beta-0_05 align-1-beta-0_5
    ldalign compare align-1 align-1-low --json | jq .scores

Prints, for each run, the settings in which the runs differ, how its last measured policy did, and how its training ended
(means over the last tenth of the steps). Writes DIR/compare/RUN, RUN being the first: index.html, table.md and every figure
as SVG and PNG.`
}

func (c *compareCommand) Run(ctx context.Context, e *env) error {
	return e.attached(ctx, c.servers(), func(s *runs.Session) error { return c.run(ctx, e, s) })
}

func (c *compareCommand) run(ctx context.Context, e *env, s *runs.Session) (err error) {
	n := e.node(s)
	specs, err := n.specsOf(ctx, c.Runs)
	if err != nil {
		return err
	}
	return e.compare(ctx, n, specs)
}

// compare sets runs side by side: on the screen, and as a page with figures.
func (e *env) compare(ctx context.Context, n *node, specs []schemas.Spec) error {
	comparison, err := n.comparison(ctx, specs)
	if err != nil {
		return err
	}
	dir := filepath.Join(e.dir, "compare", specs[0].Run)
	if err := report.WriteSideBySide(dir, comparison); err != nil {
		return err
	}
	if e.json {
		return printJSON(e.stdout, comparison.Ends().Runs)
	}
	_, err = fmt.Fprintf(e.stdout, "\n%s\ncomparison: %s\n", report.SideBySideTable(comparison), filepath.Join(dir, "index.html"))
	return err
}

func (n *node) comparison(ctx context.Context, specs []schemas.Spec) (report.SideBySide, error) {
	out := report.SideBySide{Title: "Runs side by side", GeneratedBy: "ldalign " + buildVersion()}
	plain := make([]schemas.Spec, len(specs))
	for i, s := range specs {
		plain[i] = settings(s)
	}
	differences := schemas.Differences(plain...)
	for i, spec := range specs {
		run, err := n.compared(ctx, spec)
		if err != nil {
			return out, fmt.Errorf("run %s: %w", spec.Run, err)
		}
		for _, d := range differences {
			run.Settings = append(run.Settings, report.Setting{Key: d.Key, Value: d.Values[i]})
		}
		out.Runs = append(out.Runs, run)
	}
	return out, nil
}

// settings is a spec without what a replay or fork sets by itself.
func settings(spec schemas.Spec) schemas.Spec {
	s := spec.Clone()
	s.Iterations, s.Evaluation.First = 0, 0
	if s.Source != nil && s.Guide.From == "run:"+s.Source.Run {
		s.Guide.From = ""
	}
	return s
}

// compared is what the streams and checkpoints say of one run.
func (n *node) compared(ctx context.Context, spec schemas.Spec) (report.Compared, error) {
	text, err := spec.YAML()
	if err != nil {
		return report.Compared{}, err
	}
	run := report.Compared{Name: spec.Run, Method: method(spec), Lineage: lineage.Describe(spec), Spec: string(text), Policy: -1}
	manifests, err := n.Checkpoints.List(ctx, spec.Run)
	if err != nil {
		return run, err
	}
	for _, m := range manifests {
		if m.Kind == "policy" {
			run.Policy = int(m.Iteration)
		}
	}
	var in report.Input
	collect := collector{node: n, in: &in, rows: map[string]int{}}
	if err := collect.curves(ctx, spec, manifests); err != nil {
		return run, err
	}
	run.Curves = slices.DeleteFunc(in.Curves, func(c report.Curve) bool { return c.Objective == "guide" })
	results, err := n.Results(ctx, spec.Run)
	if err != nil {
		return run, err
	}
	for i := range uint32(spec.Iterations + 1) {
		if r := results[i]; r != nil {
			run.Policies = append(run.Policies, report.Measured{Iteration: int(i), Scores: scores(spec.Seed, r)})
		}
	}
	return run, nil
}
