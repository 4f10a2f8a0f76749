package main

import (
	"context"

	"github.com/ldalign/ldalign/ops/report"
	"github.com/ldalign/ldalign/ops/report/collect"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/schemas"
)

type reportCommand struct {
	Runs []string `arg:"" name:"run" help:"Runs to put into one report, in the order of its table."`
	serverFlags
}

func (reportCommand) Help() string {
	return `Example:

    ldalign report my-run
    ldalign report demo-ldalign demo-spin

Writes index.html, table.md, table.json and every figure as SVG and PNG to DIR/runs/RUN/report, where RUN is the first of the
runs whose objective is not sft. A run need not be finished. Prints the table.`
}

func (c *reportCommand) Run(ctx context.Context, e *env) error {
	return e.attached(ctx, c.servers(), func(s *runs.Session) error { return c.run(ctx, e, s) })
}

func (c *reportCommand) run(ctx context.Context, e *env, s *runs.Session) (err error) {
	specs, err := runs.Specs(ctx, s, c.Runs)
	if err != nil {
		return err
	}
	in, err := e.report(ctx, s, specs, c.Runs[0])
	if err != nil {
		return err
	}
	return e.writeReport(specs, in)
}

// report collects the data of a report on some runs.
func (e *env) report(ctx context.Context, s *runs.Session, specs []schemas.Spec, title string) (report.Input, error) {
	in, err := collect.Report(ctx, s, specs, title)
	in.GeneratedBy = generatedBy()
	return in, err
}
