package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ldalign/ldalign/ops/pipeline"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/ops/runs/derive"
	"github.com/ldalign/ldalign/ops/telemetry"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/activity"
)

type sweepCommand struct {
	Name string `arg:"" name:"run" help:"Name of the run whose log is replayed."`
	As   string `help:"Prefix of the new runs' names (default: the run's name)." placeholder:"NAME"`
	replayFlags
	Parallel int  `help:"Number of replays that run at the same time. They share one tensor engine: more of them take more memory, and save no time on one CPU." default:"1"`
	DryRun   bool `help:"List the runs and what they would do, and stop."`
	serverFlags
}

func (sweepCommand) Help() string {
	return `Example:

    ldalign sweep align-1 --from scored --set objective.beta=0.05,0.1,0.5
    ldalign sweep align-1 --set objective.beta=0.05,0.1 --set optimizer.lr=1e-7,5e-7 --dry-run

Replays a run once for each combination of the values, all from the same log. Put a value that contains a comma in double
quotes. The runs are named RUN-KEY-VALUE, where KEY is the last part of a key with several values. If it is interrupted, the
same command continues with the remaining runs. At the end it prints the runs side by side, as ` + "`ldalign compare`" + ` does.`
}

func (c *sweepCommand) Run(ctx context.Context, e *env) error {
	if c.Parallel < 1 {
		return fmt.Errorf("%w: --parallel is %d, want at least 1", errUsage, c.Parallel)
	}
	request := derive.Sweep{Replay: c.request(cmp.Or(c.As, c.Name))}
	var parent schemas.Spec
	var sweep []runs.SweepRun
	err := e.attached(ctx, c.servers(), func(s *runs.Session) (err error) {
		if parent, err = runs.Spec(ctx, s, c.Name); err != nil {
			return err
		}
		sweep, err = runs.PlanSweep(ctx, s, parent, request)
		return err
	})
	if err != nil {
		return err
	}
	if c.DryRun {
		return e.printSweep(sweep)
	}
	specs := make([]schemas.Spec, len(sweep))
	for i, run := range sweep {
		specs[i] = run.Spec
		specs[i].Servers = c.over(run.Spec.Servers)
	}
	return e.sweep(ctx, parent, specs, c.Parallel)
}

func (e *env) printSweep(sweep []runs.SweepRun) error {
	if e.json {
		return printJSON(e.stdout, sweep)
	}
	w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "run\tset\tpairs\tsteps\ttraining, by the source's\t")
	var left time.Duration
	for _, run := range sweep {
		cost, state := "not known", ""
		took := time.Duration(run.Seconds * float64(time.Second)).Round(100 * time.Millisecond)
		if run.Seconds > 0 {
			cost = took.String()
		}
		if run.Done {
			state = "done"
		} else {
			left += took
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\n", run.Run, strings.Join(run.Set, " "), run.Pairs, run.Steps, cost, state)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(e.stdout, "stages that run: %s\nremaining training: about %s, plus the time of the other stages\n",
		strings.Join(e.workers(&sweep[0].Spec), ", "), left)
	return err
}

// sweep plays the runs that are not complete, and compares all.
func (e *env) sweep(ctx context.Context, parent schemas.Spec, specs []schemas.Spec, parallel int) error {
	o := runs.Options{Servers: specs[0].Servers, Limits: specs[0].Streams, Name: "ldalign-sweep"}
	return e.opened(ctx, o, func(s *runs.Session) error {
		return withEngine(specs[0].Compute, func(engine *pipeline.Engine) error {
			start := time.Now()
			screen := telemetry.NewScreen(e.display)
			player := e.player(s, engine, screen)
			err := player.RunAll(ctx, specs, parallel, screen.End)
			if activity.Interrupted(err) {
				return fmt.Errorf("%w\nldalign: run the same command to continue the sweep", activity.ErrInterrupted)
			}
			if err != nil {
				return err
			}
			e.notice("%d replays of %s, %.1f s, tensor work %.0f %% of it",
				len(specs), parent.Run, time.Since(start).Seconds(), 100*player.Busy().Seconds()/time.Since(start).Seconds())
			return e.compare(ctx, s, append([]schemas.Spec{parent}, specs...))
		})
	})
}
