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
	Exact  bool `help:"Prove that the same spec gives the same weights: compare with the run's policies, and end with exit code 1 where they differ."`
	DryRun bool `help:"Print the spec of the new run and what it would do, and stop."`
	serverFlags
}

// replayFlags say what of a run is replayed and what is changed.
type replayFlags struct {
	From      string   `enum:"prompts,pairs,encoded,scored" default:"scored" help:"Log that is read: prompts, pairs, encoded or scored. Only the stages behind it run."`
	Iteration string   `help:"Iteration to replay, or all. Left out: all when nothing changes or with --from prompts, else 0." placeholder:"N"`
	Set       []string `help:"Change a key of the run's spec, e.g. --set objective.beta=0.5." placeholder:"KEY=VALUE" sep:"none"`
	OffPolicy bool     `help:"Accept pairs that were sampled by other weights than those that an iteration starts from."`
}

// request is what the flags ask for under a name.
func (f replayFlags) request(as string) derive.Replay {
	return derive.Replay{As: as, From: schemas.Kind(f.From), Iteration: f.Iteration, Set: f.Set, OffPolicy: f.OffPolicy}
}

func (replayCommand) Help() string {
	return `Example:

    ldalign replay align-1 --from scored --set objective.beta=0.5 --as align-1-beta
    ldalign replay align-1 --from pairs --set guide.latent_dim=8 --as align-1-guide
    ldalign replay align-1 --exact --as align-1-again

The new run reads the messages of the other run where they are: it copies nothing, and no stage in front of that log runs
again. From scored, only the trainer works (another beta, weight, optimizer, number of epochs); from encoded, distance and
the trainer (another metric); from pairs also the encoder (another guide); from prompts all stages but the prompter. If it
is interrupted, the same command goes on. docs/replay.md says what can be changed, and why one iteration is the default.`
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

// proveExact prints each policy of a replay that is its source's, and fails at the first that is not.
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

// printPlan says what a new run would do, and prints its spec.
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

// workers are the names of the stages that a run has, of all stages for nil, and of the trainer.
func (e *env) workers(spec *schemas.Spec) []string {
	stages := e.pipeline.Stages()
	if spec != nil {
		stages = stages.Of(*spec)
	}
	return append(stages.Names(), runs.Trainer)
}

// shown is a value as a sentence shows it.
func shown(value string) string {
	if value == "" {
		return "nothing"
	}
	return value
}
