package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/ldalign/ldalign/ops/progress"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/ledger"
)

type runsCommand struct {
	List   runsListCommand   `cmd:"" default:"withargs" help:"List the runs in a folder or on a server."`
	Delete runsDeleteCommand `cmd:"" help:"Delete a run: its messages, its checkpoints, its reports."`
	Prune  runsPruneCommand  `cmd:"" help:"Remove what past iterations of a run have left on the logs and in the store."`
}

type runsListCommand struct{ serverFlags }

func (runsListCommand) Help() string {
	return "Example:\n\n    ldalign runs\n    ldalign runs --json | jq -r .run"
}

func (c *runsListCommand) Run(ctx context.Context, e *env) error {
	return e.attached(ctx, c.servers(), func(s *runs.Session) error { return c.run(ctx, e, s) })
}

func (c *runsListCommand) run(ctx context.Context, e *env, s *runs.Session) (err error) {
	n := e.node(s)
	names, err := n.Streams.Runs(ctx)
	if err != nil {
		return err
	}
	var all []runStatus
	for _, name := range names {
		s, err := n.status(ctx, name)
		if errors.Is(err, errNoSuchRun) {
			s = runStatus{Run: name, State: "not declared", Policy: -1}
		} else if err != nil {
			return err
		}
		all = append(all, s)
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
	Yes  bool   `help:"Delete it; without it only what would go is shown."`
	serverFlags
}

func (runsDeleteCommand) Help() string {
	return `Example:

    ldalign runs delete my-run          # what would go
    ldalign runs delete my-run --yes

Refused while anybody works on the run, and while another run names it: a replay or fork reads its log, others start from
its checkpoints or use its guide. ` + "`ldalign backup`" + ` first, if in doubt.`
}

// runSize is what runs delete prints with --json.
type runSize struct {
	Run         string            `json:"run"`
	Messages    map[string]uint64 `json:"messages"`
	Checkpoints int               `json:"checkpoints"`
	Objects     int               `json:"objects"`
	Bytes       int64             `json:"bytes"`
	Deleted     bool              `json:"deleted"`
}

func (c *runsDeleteCommand) Run(ctx context.Context, e *env) error {
	return e.attached(ctx, c.servers(), func(s *runs.Session) error { return c.run(ctx, e, s) })
}

func (c *runsDeleteCommand) run(ctx context.Context, e *env, s *runs.Session) (err error) {
	n := e.node(s)
	size := runSize{Run: c.Name, Messages: map[string]uint64{}}
	sizes, err := ledger.SizeOf(ctx, n.Streams, c.Name)
	if err != nil {
		return err
	}
	for _, s := range sizes {
		size.Messages[string(s.Kind)] = s.Messages
	}
	if size.Checkpoints, size.Objects, size.Bytes, err = n.Checkpoints.Size(ctx, c.Name); err != nil {
		return err
	}
	if len(sizes) == 0 && size.Objects == 0 {
		return fmt.Errorf("%w: %s (`ldalign runs` lists them)", errNoSuchRun, c.Name)
	}
	if err := n.unnamed(ctx, c.Name); err != nil {
		return err
	}
	if err := n.Streams.Idle(ctx, c.Name); err != nil {
		return err
	}
	if c.Yes {
		if err := n.deleteRun(ctx, e, c.Name); err != nil {
			return err
		}
		size.Deleted = true
	}
	if e.json {
		return printJSON(e.stdout, []runSize{size})
	}
	var messages uint64
	for _, s := range sizes {
		messages += s.Messages
	}
	verb := "would delete"
	if size.Deleted {
		verb = "deleted"
	}
	fmt.Fprintf(e.stdout, "%s run %s: %d messages, %s with %d objects of %d bytes, and %s\n",
		verb, c.Name, messages, progress.Count(int64(size.Checkpoints), "checkpoints"), size.Objects, size.Bytes, e.reportDir(c.Name))
	if !size.Deleted {
		_, err = fmt.Fprintln(e.stdout, "nothing was changed; --yes does it")
	}
	return err
}

// deleteRun deletes everything of a run under its lease: the checkpoints first, so that a run which is declared but has
// none can be deleted by the same command after an interruption.
func (n *node) deleteRun(ctx context.Context, e *env, run string) (err error) {
	lease, err := n.Streams.AcquireLease(ctx, run, runs.Holder(), restoreTTL)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lease.Release()) }()
	if err := n.Checkpoints.DeleteRun(ctx, run); err != nil {
		return err
	}
	if err := os.RemoveAll(e.reportDir(run)); err != nil {
		return fmt.Errorf("delete the reports: %w", err)
	}
	return n.Streams.DeleteRun(ctx, run)
}

// unnamed is nil, or says which other run needs this one.
func (n *node) unnamed(ctx context.Context, run string) error {
	names, err := n.Streams.Runs(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		spec, err := n.spec(ctx, name)
		if errors.Is(err, streams.ErrNotFound) || name == run {
			continue
		}
		if err != nil {
			return err
		}
		if key := namesRun(spec, run); key != "" {
			return fmt.Errorf("run %s names run %s as its %s: delete that one first", name, run, key)
		}
	}
	return nil
}

// namesRun is the key by which a spec names another run; empty for none.
func namesRun(spec schemas.Spec, run string) string {
	if spec.Source != nil && spec.Source.Run == run {
		return "source.run"
	}
	for _, from := range []struct{ key, value string }{
		{"model.from", spec.Model.From}, {"guide.from", spec.Guide.From}, {"evaluation.guide", spec.Evaluation.Guide},
	} {
		if ref, ok := schemas.FromRun(from.value); ok && ref.Run == run {
			return from.key
		}
	}
	return ""
}
