package main

import (
	"context"
	"fmt"

	"github.com/ldalign/ldalign/ops/progress"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/retention"
)

type runsPruneCommand struct {
	Name           string `arg:"" name:"run" help:"Name of the run."`
	KeepIterations int    `help:"Keep the messages of the N newest finished iterations; 0 keeps all." placeholder:"N" default:"-1"`
	KeepPolicies   int    `help:"Keep the weights of the N newest policies; 0 keeps all." placeholder:"N" default:"-1"`
	Yes            bool   `help:"Remove them; without it, only show what would be removed."`
	serverFlags
}

func (runsPruneCommand) Help() string {
	return `Example:

    ldalign runs prune my-run --keep-iterations 1                      # shows what would be removed
    ldalign runs prune my-run --keep-iterations 1 --keep-policies 2 --yes

Removes messages and weights once, as the trainer does after each iteration if the spec has a section retention. Without --keep
flags, the run's spec says what to keep. Everything that is still needed is kept and listed: messages that a stage has not
finished, policies that are not yet evaluated, and what a replay or fork of the run reads. What is removed can no longer be
replayed, forked or exported. Results, manifests and the trainer's records are kept, and an audit still balances. The command
fails while a trainer is working on the run.`
}

func (c *runsPruneCommand) Run(ctx context.Context, e *env) error {
	return e.attached(ctx, c.servers(), func(s *runs.Session) error {
		spec, err := runs.Spec(ctx, s, c.Name)
		if err != nil {
			return err
		}
		keep, reason := spec.Retention, retention.Reason(spec.Retention)
		if c.KeepIterations >= 0 || c.KeepPolicies >= 0 {
			keep = schemas.RetentionSpec{Messages: max(c.KeepIterations, 0), Policies: max(c.KeepPolicies, 0)}
			reason = "ldalign runs prune by " + runs.Holder()
		}
		if keep == (schemas.RetentionSpec{}) {
			return fmt.Errorf("%w: say what to keep, with --keep-iterations N or --keep-policies N: the spec of run %s keeps everything",
				errUsage, c.Name)
		}
		got, err := runs.Prune(ctx, s, spec, keep, reason, !c.Yes)
		if err != nil {
			return err
		}
		return e.printPruned(got)
	})
}

func (e *env) printPruned(got retention.Removed) error {
	if e.json {
		return printJSON(e.stdout, []retention.Removed{got})
	}
	verb := "would remove"
	if got.Done {
		verb = "removed"
	}
	fmt.Fprintf(e.stdout, "run %s: %s %d messages of %s, and the weights of %s, %d files of %d bytes\n", got.Run, verb,
		got.Messages, progress.Count(int64(len(got.Iterations)), "iterations"), progress.Count(int64(len(got.Policies)), "policies"),
		got.Files, got.Bytes)
	for _, stay := range got.Stays {
		fmt.Fprintf(e.stdout, "  kept: %s of iteration %d: %s\n", stay.What, stay.Iteration, stay.Why)
	}
	if !got.Done {
		fmt.Fprintln(e.stdout, "nothing was changed; --yes does it")
	}
	return nil
}
