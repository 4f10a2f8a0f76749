package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/ldalign/ldalign/ops/progress"
	"github.com/ldalign/ldalign/ops/runs"
)

type runsCommand struct {
	List   runsListCommand   `cmd:"" default:"withargs" help:"List the runs in a folder or on a server."`
	Delete runsDeleteCommand `cmd:"" help:"Delete a run: its messages, its checkpoints, its reports."`
	Prune  runsPruneCommand  `cmd:"" help:"Remove messages and weights of past iterations of a run."`
}

type runsListCommand struct{ serverFlags }

func (runsListCommand) Help() string {
	return "Example:\n\n    ldalign runs\n    ldalign runs --json | jq -r .run"
}

func (c *runsListCommand) Run(ctx context.Context, e *env) error {
	return e.attached(ctx, c.servers(), func(s *runs.Session) error { return c.run(ctx, e, s) })
}

func (c *runsListCommand) run(ctx context.Context, e *env, s *runs.Session) (err error) {
	names, err := s.Streams.Runs(ctx)
	if err != nil {
		return err
	}
	all := make([]runs.Status, len(names))
	for i, name := range names {
		all[i], err = s.Status(ctx, name)
		if errors.Is(err, runs.ErrNoSuchRun) {
			all[i] = runs.Status{Run: name, State: runs.StateUndeclared, Policy: -1}
		} else if err != nil {
			return err
		}
	}
	if e.json {
		return printJSON(e.stdout, all)
	}
	w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "run\tobjective\tpolicy\tstate\tlineage")
	for _, s := range all {
		policy := "none"
		if s.Policy >= 0 {
			policy = fmt.Sprint(s.Policy)
		}
		fmt.Fprintf(w, "%s\t%s\t%s of %d\t%s\t%s\n", s.Run, s.Objective, policy, s.Of, s.State, s.Lineage)
	}
	return w.Flush()
}

type runsDeleteCommand struct {
	Name string `arg:"" name:"run" help:"Name of the run."`
	Yes  bool   `help:"Delete it; without it, only show what would be deleted."`
	serverFlags
}

func (runsDeleteCommand) Help() string {
	return `Example:

    ldalign runs delete my-run          # shows what would be deleted
    ldalign runs delete my-run --yes

The command fails while a process is working on the run, and while another run needs it: a replay or fork that reads its log,
or a run that starts from its checkpoints or uses its guide. If in doubt, make a copy with ` + "`ldalign backup`" + ` first.`
}

func (c *runsDeleteCommand) Run(ctx context.Context, e *env) error {
	return e.attached(ctx, c.servers(), func(s *runs.Session) error {
		size, err := runs.Delete(ctx, s, c.Name, !c.Yes)
		if err != nil {
			return err
		}
		if e.json {
			return printJSON(e.stdout, []runs.Size{size})
		}
		var messages uint64
		for _, n := range size.Messages {
			messages += n
		}
		verb := "would delete"
		if size.Deleted {
			verb = "deleted"
		}
		fmt.Fprintf(e.stdout, "%s run %s: %d messages, %s with %d objects of %d bytes, and %s\n",
			verb, c.Name, messages, progress.Count(int64(size.Checkpoints), "checkpoints"), size.Objects, size.Bytes, s.ReportDir(c.Name))
		if !size.Deleted {
			fmt.Fprintln(e.stdout, "nothing was changed; --yes does it")
		}
		return nil
	})
}
