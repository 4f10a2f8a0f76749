package main

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
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

func sortByPosition(scored []*events.Scored) {
	slices.SortFunc(scored, func(a, b *events.Scored) int {
		return cmp.Compare(a.GetPair().GetPrompt().GetPosition(), b.GetPair().GetPrompt().GetPosition())
	})
}
