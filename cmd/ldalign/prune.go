package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/ldalign/ldalign/ops/progress"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/retention"
)

type runsPruneCommand struct {
	Name           string `arg:"" name:"run" help:"Name of the run."`
	KeepIterations int    `help:"Finished iterations that keep their messages, the newest; 0 keeps all." placeholder:"N" default:"-1"`
	KeepPolicies   int    `help:"Policies that keep their weights, the newest; 0 keeps all." placeholder:"N" default:"-1"`
	Yes            bool   `help:"Remove them; without it only what would go is shown."`
	serverFlags
}

func (runsPruneCommand) Help() string {
	return `Example:

    ldalign runs prune my-run --keep-iterations 1                      # what would go
    ldalign runs prune my-run --keep-iterations 1 --keep-policies 2 --yes

Does once what the section retention of a spec has the trainer do after each iteration; without --keep flags, what the run's
spec says. What is still needed stays, and is named: what a stage has not settled, a policy that is not evaluated, what a
replay or fork of the run has pinned. What goes cannot be replayed, forked or exported any more; results, manifests and the
trainer's records stay, and an audit still balances. A run that a trainer works on is refused.`
}

// pruned is what runs prune prints with --json.
type pruned struct {
	Run        string   `json:"run"`
	Iterations []uint32 `json:"iterations"`
	Messages   uint64   `json:"messages"`
	Policies   []uint32 `json:"policies"`
	Files      int      `json:"files"`
	Bytes      int64    `json:"bytes"`
	Stays      []stay   `json:"stays"`
	Removed    bool     `json:"removed"`
}

type stay struct {
	What      string `json:"what"`
	Iteration uint32 `json:"iteration"`
	Why       string `json:"why"`
}

func (c *runsPruneCommand) Run(ctx context.Context, e *env) error {
	return e.attached(ctx, c.servers(), func(s *runs.Session) error { return c.run(ctx, e, s) })
}

func (c *runsPruneCommand) run(ctx context.Context, e *env, s *runs.Session) (err error) {
	n := e.node(s)
	spec, err := n.specOf(ctx, c.Name)
	if err != nil {
		return err
	}
	keep, reason := spec.Retention, retention.Reason(spec.Retention)
	if c.KeepIterations >= 0 || c.KeepPolicies >= 0 {
		keep = schemas.RetentionSpec{Messages: max(c.KeepIterations, 0), Policies: max(c.KeepPolicies, 0)}
		reason = "ldalign runs prune by " + runs.Holder()
	}
	if keep == (schemas.RetentionSpec{}) {
		return fmt.Errorf("%w: say what stays, by --keep-iterations N or --keep-policies N: the spec of run %s keeps all",
			errUsage, c.Name)
	}
	got, err := n.retain(ctx, spec, keep, reason, !c.Yes)
	if err != nil {
		return err
	}
	out := pruned{
		Run: c.Name, Iterations: append([]uint32{}, got.Iterations...), Messages: got.Messages,
		Policies: append([]uint32{}, got.Policies...), Files: got.Files, Bytes: got.Bytes, Stays: []stay{}, Removed: c.Yes,
	}
	for _, s := range got.Stays {
		out.Stays = append(out.Stays, stay(s))
	}
	if e.json {
		return printJSON(e.stdout, []pruned{out})
	}
	verb := "would remove"
	if c.Yes {
		verb = "removed"
	}
	fmt.Fprintf(e.stdout, "run %s: %s %d messages of %s, and the weights of %s, %d files of %d bytes\n", c.Name, verb,
		out.Messages, progress.Count(int64(len(out.Iterations)), "iterations"), progress.Count(int64(len(out.Policies)), "policies"),
		out.Files, out.Bytes)
	for _, s := range out.Stays {
		fmt.Fprintf(e.stdout, "  stays: %s of iteration %d: %s\n", s.What, s.Iteration, s.Why)
	}
	if !c.Yes {
		_, err = fmt.Fprintln(e.stdout, "nothing was changed; --yes does it")
	}
	return err
}

// retain carries out a retention under the run's lease.
func (n *node) retain(
	ctx context.Context, spec schemas.Spec, keep schemas.RetentionSpec, reason string, dry bool,
) (got retention.Removed, err error) {
	lease, err := n.Streams.AcquireLease(ctx, spec.Run, runs.Holder(), restoreTTL)
	if err != nil {
		return got, err
	}
	defer func() { err = errors.Join(err, lease.Release()) }()
	return retention.Apply(ctx, n.Streams, n.Checkpoints, spec, keep, reason, dry)
}
