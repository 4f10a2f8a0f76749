package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/ldalign/ldalign/ops/report"
	"github.com/ldalign/ldalign/ops/report/collect"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/schemas"
)

type compareCommand struct {
	Runs []string `arg:"" name:"run" help:"Runs to compare, in the order of the table."`
	serverFlags
}

func (compareCommand) Help() string {
	return `Example:

    ldalign compare align-1 align-1-beta-0_05 align-1-beta-0_5
    ldalign compare align-1 align-1-low --json | jq .scores

Prints for each run the settings in which the runs differ, the held-out values of its last evaluated policy, and the values at
the end of its training (means over the last tenth of the steps). Writes index.html, table.md and every figure as SVG and PNG
to DIR/compare/RUN, where RUN is the first run.`
}

func (c *compareCommand) Run(ctx context.Context, e *env) error {
	return e.attached(ctx, c.servers(), func(s *runs.Session) error { return c.run(ctx, e, s) })
}

func (c *compareCommand) run(ctx context.Context, e *env, s *runs.Session) (err error) {
	specs, err := runs.Specs(ctx, s, c.Runs)
	if err != nil {
		return err
	}
	return e.compare(ctx, s, specs)
}

// compare prints runs side by side, and writes a page with figures.
func (e *env) compare(ctx context.Context, s *runs.Session, specs []schemas.Spec) error {
	comparison, err := collect.SideBySide(ctx, s, specs)
	if err != nil {
		return err
	}
	comparison.GeneratedBy = generatedBy()
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
