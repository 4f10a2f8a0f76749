package main

import (
	"context"
	"time"

	"github.com/ldalign/ldalign/ops/runs"
)

type statusCommand struct {
	Name string `arg:"" name:"run" help:"Name of the run."`
	Spec bool   `help:"Print the run's resolved spec instead."`

	Watch bool          `help:"Repeat until the run is complete or Ctrl-C." short:"w"`
	Every time.Duration `help:"Time between two updates." default:"2s"`
	serverFlags
}

func (statusCommand) Help() string {
	return `Example:

    ldalign status my-run
    ldalign status my-run --watch
    ldalign status my-run --json | jq .iterations
    ldalign status my-run --spec > run.yaml

Works during a run and after its end. For each stage it shows the number of waiting messages (lag), the messages processed per
second (rate), the time that the remaining ones will take (eta), and what each worker is doing or why it is idle. Below it
names the stage that the run is waiting for.`
}

func (c *statusCommand) Run(ctx context.Context, e *env) error {
	return e.attached(ctx, c.servers(), func(s *runs.Session) error { return c.run(ctx, e, s) })
}

func (c *statusCommand) run(ctx context.Context, e *env, s *runs.Session) (err error) {
	if c.Spec {
		spec, err := runs.Spec(ctx, s, c.Name)
		if err != nil {
			return err
		}
		return e.showSpec(spec)
	}
	if c.Watch {
		return c.watch(ctx, e, s)
	}
	status, err := s.LiveStatus(ctx, c.Name, e.pipeline.Stages())
	if err != nil {
		return err
	}
	if e.json {
		return printJSON(e.stdout, []runs.Status{status})
	}
	return printStatus(e.stdout, status)
}
