package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/schemas"
)

type forkCommand struct {
	From   string   `arg:"" name:"run@iteration" help:"Run and policy to go on from, as align-1@2; align-1 alone is its newest."`
	As     string   `help:"Name of the new run; RUN-fork-ITERATION when left out." placeholder:"NAME"`
	Set    []string `help:"Change a key of the run's spec, e.g. --set optimizer.lr=1e-7." placeholder:"KEY=VALUE" sep:"none"`
	DryRun bool     `help:"Print the spec of the new run, and stop."`
	serverFlags
}

func (forkCommand) Help() string {
	return `Example:

    ldalign fork align-1@2 --set objective.beta=0.05 --as align-1-low
    ldalign fork align-1 --set iterations=5

The policy becomes policy 0 of a new run, which samples and trains on its own; its iterations count from there. It makes as
many as the other run had left, or as many as that made where none were left, and measures by the other run's guide unless a
key of the guide is changed. Interrupted, the same command goes on.`
}

func (c *forkCommand) Run(ctx context.Context, e *env) error {
	parent, child, err := c.plan(ctx, e)
	if err != nil {
		return err
	}
	if c.DryRun {
		return e.printPlan(parent, child)
	}
	return e.up(ctx, []schemas.Spec{child}, child.Run)
}

// plan makes the spec of the fork.
func (c *forkCommand) plan(ctx context.Context, e *env) (parent, child schemas.Spec, err error) {
	err = e.attached(ctx, c.servers(), func(s *runs.Session) (err error) {
		parent, child, err = c.planned(ctx, e.node(s))
		return err
	})
	return parent, child, err
}

func (c *forkCommand) planned(ctx context.Context, n *node) (parent, child schemas.Spec, err error) {
	ref, err := schemas.ParsePolicyRef(c.From)
	if err != nil {
		return parent, child, fmt.Errorf("%w: %w", errUsage, err)
	}
	if parent, err = n.specOf(ctx, ref.Run); err != nil {
		return parent, child, err
	}
	policy, err := n.Checkpoints.PolicyOf(ctx, ref)
	if err != nil {
		return parent, child, err
	}
	if err := n.Checkpoints.Whole(ctx, policy); err != nil {
		return parent, child, err
	}
	as := c.As
	if as == "" {
		as = fmt.Sprintf("%s-fork-%d", ref.Run, policy.Iteration)
	}
	if child, err = changed(parent, as, c.Set); err != nil {
		return parent, child, err
	}
	differences := schemas.Differences(parent, child)
	if slices.ContainsFunc(differences, func(d schemas.Difference) bool {
		return d.Key == "model.from" || strings.HasPrefix(d.Key, "model.scratch.")
	}) {
		return parent, child, fmt.Errorf("%w: a fork starts from the policy that it names, not from another model", errUsage)
	}
	child.Servers = c.serverFlags.over(child.Servers)
	err = n.forkFrom(ctx, &child, parent, policy, differences, assigns(c.Set, "iterations"))
	return parent, child, err
}

// forkFrom fills in what follows from the policy that a fork starts from.
func (n *node) forkFrom(
	ctx context.Context, child *schemas.Spec, parent schemas.Spec, policy checkpoints.Manifest, differences []schemas.Difference,
	counted bool,
) error {
	i := int(policy.Iteration)
	child.Model.From, child.Model.Scratch = schemas.PolicyRef{Run: parent.Run, Iteration: i}.Reference(), nil
	child.Source = &schemas.SourceSpec{
		Run: parent.Run, From: schemas.FromPolicy, Iteration: i, OffPolicy: schemas.RefuseOffPolicy, Policy: policy.Digest,
		Spec: parent.Digest(),
	}
	if left := parent.Iterations - i; !counted && left > 0 {
		child.Iterations = left
	}
	ownGuide := slices.ContainsFunc(differences, func(d schemas.Difference) bool { return strings.HasPrefix(d.Key, "guide.") })
	if child.NeedsGuide() && parent.NeedsGuide() && child.Guide.From == "" && !ownGuide {
		_, err := n.Checkpoints.Latest(ctx, parent.Run, checkpoints.Guide)
		if err == nil {
			child.Guide.From = "run:" + parent.Run
		} else if !errors.Is(err, checkpoints.ErrNoCheckpoint) {
			return err
		}
	}
	*child = schemas.Resolve(*child, child.Compute.Threads)
	return child.Validate()
}
