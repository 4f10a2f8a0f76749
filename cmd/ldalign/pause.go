package main

import (
	"context"
	"fmt"

	"github.com/ldalign/ldalign/ops/runs"
)

type pauseCommand struct {
	Name  string `arg:"" name:"run" help:"Name of the run."`
	Stage string `help:"Pause only this stage: ${worker_list}." enum:",${stages},${trainer}" default:""`
	serverFlags
}

func (pauseCommand) Help() string {
	return `Example:

    ldalign pause my-run
    ldalign pause my-run --stage generator
    ldalign resume my-run

Workers finish the messages that they hold and then pause; the trainer pauses between two steps. A pause also applies to
workers that start later, and survives restarts. It ends with ldalign resume.`
}

func (c *pauseCommand) Run(ctx context.Context, e *env) error {
	return e.pausing(ctx, c.serverFlags, c.Name, c.Stage, "paused", func(s *runs.Session) error {
		return s.Streams.Pause(ctx, c.Name, c.Stage, person())
	})
}

type resumeCommand struct {
	Name  string `arg:"" name:"run" help:"Name of the run."`
	Stage string `help:"Resume only this stage." enum:",${stages},${trainer}" default:""`
	serverFlags
}

func (resumeCommand) Help() string {
	return "Example:\n\n    ldalign resume my-run\n    ldalign resume my-run --stage generator\n\n" +
		"To resume a stage that was paused with --stage, give the same --stage."
}

func (c *resumeCommand) Run(ctx context.Context, e *env) error {
	return e.pausing(ctx, c.serverFlags, c.Name, c.Stage, "resumed", func(s *runs.Session) error {
		return s.Streams.Resume(ctx, c.Name, c.Stage)
	})
}

// pausing checks that the run exists, calls do to pause or resume it, and prints the result.
func (e *env) pausing(ctx context.Context, f serverFlags, run, stage, done string, do func(*runs.Session) error) error {
	err := e.attached(ctx, f.servers(), func(s *runs.Session) error {
		if _, err := runs.Spec(ctx, s, run); err != nil {
			return err
		}
		return do(s)
	})
	if err != nil {
		return err
	}
	what := "run " + run
	if stage != "" {
		what = stage + " of run " + run
	}
	if e.json {
		return printJSON(e.stdout, []map[string]string{{"run": run, "stage": stage, "state": done}})
	}
	_, err = fmt.Fprintf(e.stdout, "%s is %s\n", what, done)
	return err
}
