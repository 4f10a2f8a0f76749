package main

import (
	"context"
	"errors"

	"github.com/ldalign/ldalign/schemas"
)

type reportCommand struct {
	Runs []string `arg:"" name:"run" help:"Runs that go into one report, in the order of its table."`
	serverFlags
}

func (reportCommand) Help() string {
	return `Example:

    ldalign report my-run
    ldalign report demo-ldalign demo-spin

Writes DIR/runs/RUN/report, RUN being the first that aligns: index.html, table.md, table.json and every figure as SVG and
PNG, also of a run that is not finished. Prints the table.`
}

func (c *reportCommand) Run(ctx context.Context, e *env) (err error) {
	n, err := e.attach(ctx, c.serverFlags.over(schemas.ServersSpec{}))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	specs, err := n.specsOf(ctx, c.Runs)
	if err != nil {
		return err
	}
	in, err := n.report(ctx, specs, c.Runs[0])
	if err != nil {
		return err
	}
	return e.writeReport(specs, in)
}
