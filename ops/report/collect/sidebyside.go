package collect

import (
	"context"
	"fmt"
	"slices"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/ops/report"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/lineage"
)

// SideBySide collects a comparison of some runs.
func SideBySide(ctx context.Context, s *runs.Session, specs []schemas.Spec) (report.SideBySide, error) {
	out := report.SideBySide{Title: "Runs side by side"}
	plain := make([]schemas.Spec, len(specs))
	for i, spec := range specs {
		plain[i] = settings(spec)
	}
	differences := schemas.Differences(plain...)
	for i, spec := range specs {
		run, err := compared(ctx, s, spec)
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
func compared(ctx context.Context, s *runs.Session, spec schemas.Spec) (report.Compared, error) {
	text, err := spec.YAML()
	if err != nil {
		return report.Compared{}, err
	}
	run := report.Compared{Name: spec.Run, Method: method(spec), Lineage: lineage.Describe(spec), Spec: string(text), Policy: -1}
	manifests, err := s.Checkpoints.List(ctx, spec.Run)
	if err != nil {
		return run, err
	}
	for _, m := range manifests {
		if m.Kind == checkpoints.Policy {
			run.Policy = int(m.Iteration)
		}
	}
	var in report.Input
	c := collector{Session: s, in: &in, rows: map[string]int{}}
	if err := c.curves(ctx, spec, manifests); err != nil {
		return run, err
	}
	run.Curves = slices.DeleteFunc(in.Curves, func(c report.Curve) bool { return c.Objective == "guide" })
	results, err := c.Results(ctx, spec.Run)
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
