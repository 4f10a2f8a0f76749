package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/ops/runs/derive"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/lineage"
)

type replayCommand struct {
	Name string `arg:"" name:"run" help:"Name of the run whose log is replayed."`
	As   string `required:"" help:"Name of the new run." placeholder:"NAME"`
	replayFlags
	Exact  bool `help:"Prove that the same spec gives the same weights: compare the new policies with the run's, and exit with code 1 if one differs."`
	DryRun bool `help:"Print the spec of the new run and the stages that would run, and stop."`
	serverFlags
}

// replayFlags select the part of a run to replay, and the settings to change.
type replayFlags struct {
	From      string   `enum:"${pair_kinds}" default:"${replay_from}" help:"Log to read: ${pair_kind_list}. Only the stages after it run."`
	Iteration string   `help:"Iteration to replay, or all. Default: all if no setting changes or with --from prompts, else 0." placeholder:"N"`
	Set       []string `help:"Change a key of the run's spec, e.g. --set objective.beta=0.5." placeholder:"KEY=VALUE" sep:"none"`
	OffPolicy bool     `help:"Accept pairs that were not sampled by the policy that an iteration starts from."`
}

// request returns the replay that the flags ask for, under the name as.
func (f replayFlags) request(as string) derive.Replay {
	return derive.Replay{As: as, From: schemas.Kind(f.From), Iteration: f.Iteration, Set: f.Set, OffPolicy: f.OffPolicy}
}

func (replayCommand) Help() string {
	return `Example:

    ldalign replay align-1 --from scored --set objective.beta=0.5 --as align-1-beta
    ldalign replay align-1 --from pairs --set guide.latent_dim=8 --as align-1-guide
    ldalign replay align-1 --exact --as align-1-again

The new run reads the messages in the log of the other run. It copies nothing, and the stages before that log do not run.
--from scored runs only the trainer (to change beta, weights, optimizer, epochs); encoded also runs the stage distance (to
change the metric); pairs also the encoder (to change the guide); prompts all stages except the prompter. If it is
interrupted, the same command continues. docs/replay.md says which settings can change, and why one iteration is the default.`
}

func (c *replayCommand) Run(ctx context.Context, e *env) error {
	request := c.request(c.As)
	request.Exact = c.Exact
	var parent, child schemas.Spec
	err := e.attached(ctx, c.servers(), func(s *runs.Session) (err error) {
		if parent, err = runs.Spec(ctx, s, c.Name); err != nil {
			return err
		}
		needs, err := request.Needs(parent)
		if err != nil {
			return err
		}
		facts, err := runs.Facts(ctx, s, parent, needs)
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
	if err := e.up(ctx, []schemas.Spec{child}, child.Run); err != nil || !c.Exact {
		return err
	}
	return e.attached(ctx, child.Servers, func(s *runs.Session) error { return e.proveExact(ctx, s, child) })
}

// proveExact prints each policy of a replay that equals its source's, and returns an error for the first that differs.
func (e *env) proveExact(ctx context.Context, s *runs.Session, spec schemas.Spec) error {
	same, failed := runs.Exact(ctx, s, spec)
	if e.json {
		if err := printJSON(e.stdout, same); err != nil {
			return err
		}
		return failed
	}
	for _, p := range same {
		fmt.Fprintf(e.stdout, "exact: policy %d of %s has the weights (sha256 %.12s) and the records of %s\n", p.Policy, p.Run,
			p.Weights, p.Source)
	}
	return failed
}

// printPlan prints what a new run would do, and its spec.
func (e *env) printPlan(parent, child schemas.Spec) error {
	differences := schemas.Differences(parent, child)
	if e.json {
		changed := map[string][2]string{}
		for _, d := range differences {
			changed[d.Key] = [2]string{d.Values[0], d.Values[1]}
		}
		return e.printSpecJSON(child, property{"lineage", lineage.Describe(child)}, property{"changed", changed},
			property{"stages", e.workers(&child)})
	}
	fmt.Fprintf(e.stdout, "---\n# %s\n", lineage.Describe(child))
	for _, d := range differences {
		fmt.Fprintf(e.stdout, "# %s: %s, was %s\n", d.Key, shown(d.Values[1]), shown(d.Values[0]))
	}
	fmt.Fprintf(e.stdout, "# stages that run: %s\n", strings.Join(e.workers(&child), ", "))
	return e.printSpec(child)
}

// workers returns the names of a run's stages (of all stages if spec is nil), followed by the trainer's.
func (e *env) workers(spec *schemas.Spec) []string {
	stages := e.pipeline.Stages()
	if spec != nil {
		stages = stages.Of(*spec)
	}
	return append(stages.Names(), runs.Trainer)
}

// shown returns a value of a spec for use in a sentence.
func shown(value string) string {
	if value == "" {
		return "nothing"
	}
	return value
}
