package main

import (
	"context"
	"fmt"

	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/ops/runs/derive"
	"github.com/ldalign/ldalign/schemas"
)

type forkCommand struct {
	From   string   `arg:"" name:"run@iteration" help:"Run and policy to start from, such as align-1@2; align-1 alone means its newest policy."`
	As     string   `help:"Name of the new run (default RUN-fork-ITERATION)." placeholder:"NAME"`
	Set    []string `help:"Change a key of the run's spec, e.g. --set optimizer.lr=1e-7." placeholder:"KEY=VALUE" sep:"none"`
	DryRun bool     `help:"Print the spec of the new run, and stop."`
	serverFlags
}

func (forkCommand) Help() string {
	return `Example:

    ldalign fork align-1@2 --set objective.beta=0.05 --as align-1-low
    ldalign fork align-1 --set iterations=5

The policy becomes policy 0 of a new run, which samples and trains by itself and numbers its iterations from 0. By default, the
new run makes the iterations that the other run still had to make after this policy, or all of its iterations if none were
left. It uses the other run's guide unless you change a key of the guide. If it is interrupted, the same command continues.`
}

func (c *forkCommand) Run(ctx context.Context, e *env) error {
	ref, err := schemas.ParsePolicyRef(c.From)
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	request := derive.Fork{Policy: ref.Iteration, As: c.As, Set: c.Set}
	var parent, child schemas.Spec
	err = e.attached(ctx, c.servers(), func(s *runs.Session) (err error) {
		if parent, err = runs.Spec(ctx, s, ref.Run); err != nil {
			return err
		}
		facts, err := runs.Facts(ctx, s, parent, request.Needs())
		if err != nil {
			return err
		}
		child, err = request.Plan(parent, facts)
		return err
	})
	if err != nil {
		return err
	}
	child.Servers = c.over(child.Servers)
	if c.DryRun {
		return e.printPlan(parent, child)
	}
	return e.up(ctx, []schemas.Spec{child}, child.Run)
}
