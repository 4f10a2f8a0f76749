package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/ledger"
	"github.com/ldalign/ldalign/trainer"
	"github.com/ldalign/ldalign/trainer/lineage"
	"github.com/ldalign/ldalign/trainer/objective"
	"github.com/ldalign/ldalign/trainer/schedule"
)

type sweepCommand struct {
	Name string `arg:"" name:"run" help:"Name of the run whose log is replayed."`
	As   string `help:"Beginning of the new runs' names; the run's own name when left out." placeholder:"NAME"`
	replayFlags
	Parallel int  `help:"Replays at the same time. They share the tensor engine, so that more of them take more memory and no less time on one CPU." default:"1"`
	DryRun   bool `help:"List the runs and what they would do, and stop."`
	serverFlags
}

func (sweepCommand) Help() string {
	return `Example:

    ldalign sweep align-1 --from scored --set objective.beta=0.05,0.1,0.5
    ldalign sweep align-1 --set objective.beta=0.05,0.1 --set optimizer.lr=1e-7,5e-7 --dry-run

Replays a run once for each combination of the values, all from the one log. A value with a comma in it stands in double
quotes. The runs are named RUN-KEY-VALUE, by the last part of each key that has several values. Interrupted, the same
command goes on with what is left. At its end it prints the runs side by side, as ` + "`ldalign compare`" + ` does.`
}

func (c *sweepCommand) Run(ctx context.Context, e *env) error {
	if c.Parallel < 1 {
		return fmt.Errorf("%w: --parallel %d: at least 1", errUsage, c.Parallel)
	}
	plan, err := c.plan(ctx, e)
	if err != nil {
		return err
	}
	if c.DryRun {
		return e.printSweep(plan)
	}
	return e.sweep(ctx, plan, c.Parallel)
}

// sweepPlan is what a sweep runs.
type sweepPlan struct {
	parent schemas.Spec
	// combinations are the assignments of each run; runs its spec.
	combinations [][]string
	runs         []schemas.Spec
	done         []bool
	// pairs of each run, and how long the parent trained on the same iterations; 0 where that is not known.
	pairs []int
	took  []time.Duration
}

func (c *sweepCommand) plan(ctx context.Context, e *env) (plan sweepPlan, err error) {
	combinations, names, err := combine(c.Set)
	if err != nil {
		return plan, err
	}
	err = e.attached(ctx, c.servers(), func(s *runs.Session) (err error) {
		plan, err = c.planned(ctx, e.node(s), combinations, names)
		return err
	})
	return plan, err
}

func (c *sweepCommand) planned(
	ctx context.Context, n *node, combinations [][]string, names []string,
) (plan sweepPlan, err error) {
	if plan.parent, err = n.specOf(ctx, c.Name); err != nil {
		return plan, err
	}
	prefix := c.As
	if prefix == "" {
		prefix = c.Name
	}
	seen := map[string]bool{}
	for i, set := range combinations {
		flags := c.replayFlags
		flags.Set = set
		as := prefix + names[i]
		if seen[as] {
			return plan, fmt.Errorf("%w: two combinations would be named %s", errUsage, as)
		}
		seen[as] = true
		spec, err := n.replaySpec(ctx, plan.parent, replayPlan{c.Name, as, flags})
		if err != nil {
			return plan, fmt.Errorf("%s: %w", as, err)
		}
		if spec.Compute != plan.parent.Compute {
			return plan, fmt.Errorf("%w: a sweep runs in one process with one tensor engine: compute cannot differ among its runs",
				errUsage)
		}
		spec.Servers = c.serverFlags.over(spec.Servers)
		if err := plan.add(ctx, n, set, spec); err != nil {
			return plan, err
		}
	}
	return plan, nil
}

// add appends a run with what is known of its cost.
func (p *sweepPlan) add(ctx context.Context, n *node, set []string, spec schemas.Spec) error {
	done, err := n.complete(ctx, spec)
	if err != nil {
		return err
	}
	given, _ := lineage.Given(spec)
	pairs, took := 0, time.Duration(0)
	for i := spec.FirstIteration(); i < spec.Iterations; i++ {
		count, err := ledger.CountIn(ctx, n.Streams, given, uint32(i))
		if err != nil {
			return err
		}
		pairs += count
		one, err := n.trainingTook(ctx, p.parent, uint32(i))
		if err != nil {
			return err
		}
		took += one
	}
	took = took * time.Duration(spec.Training.Epochs) / time.Duration(p.parent.Training.Epochs)
	p.combinations, p.runs, p.done = append(p.combinations, set), append(p.runs, spec), append(p.done, done)
	p.pairs, p.took = append(p.pairs, pairs), append(p.took, took)
	return nil
}

// trainingTook is the time from an iteration's last pair to its policy, by the server's clock; 0 when it is not in the log.
// It includes whatever interrupted the run meanwhile.
func (n *node) trainingTook(ctx context.Context, spec schemas.Spec, iteration uint32) (time.Duration, error) {
	feed, _ := lineage.Feed(spec, objective.TrainsFrom(spec.Objective.Kind))
	feed, err := n.Streams.Locate(ctx, feed)
	if err != nil {
		return 0, err
	}
	var last, made time.Time
	seen := map[string]bool{}
	err = n.Streams.Read(ctx, feed.Kind, feed.Run, int(iteration), feed.First, func(r streams.Received) error {
		if id := r.Message.ID(); !seen[id] { // not what was stored again
			seen[id], last = true, r.Time
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	err = n.Streams.Read(ctx, schemas.Checkpoints, spec.Run, int(iteration)+1, 0, func(r streams.Received) error {
		if c, ok := r.Message.(*events.Checkpoint); ok && c.GetKind() == "policy" {
			made = r.Time
		}
		return nil
	})
	if err != nil || last.IsZero() || made.Before(last) {
		return 0, err
	}
	return made.Sub(last), nil
}

// combine makes the cartesian product of assignments with several values, the first key varying slowest, and the end of
// each combination's name.
func combine(assignments []string) (combinations [][]string, names []string, err error) {
	type axis struct {
		key, short string
		values     []string
	}
	var axes []axis
	for _, a := range assignments {
		key, text, ok := strings.Cut(a, "=")
		if !ok {
			return nil, nil, fmt.Errorf("%w: --set %q is not key=value or key=value,value", errUsage, a)
		}
		values, err := csv.NewReader(strings.NewReader(text)).Read()
		if err != nil {
			values = []string{text} // an empty text, or a quote within one
		}
		key = strings.TrimSpace(key)
		if slices.ContainsFunc(axes, func(x axis) bool { return x.key == key }) {
			return nil, nil, fmt.Errorf("%w: --set %s is given twice: write its values with commas", errUsage, key)
		}
		axes = append(axes, axis{key, key[strings.LastIndexByte(key, '.')+1:], values})
	}
	combinations, names = [][]string{nil}, []string{""}
	several := false
	for i, x := range axes {
		for j, y := range axes {
			if i != j && x.short == y.short {
				x.short = strings.ReplaceAll(x.key, ".", "-")
			}
		}
		several = several || len(x.values) > 1
		var more [][]string
		var moreNames []string
		for k, c := range combinations {
			for _, v := range x.values {
				name := names[k]
				if len(x.values) > 1 {
					name += "-" + nameOf(x.short) + "-" + nameOf(v)
				}
				more, moreNames = append(more, append(slices.Clone(c), x.key+"="+v)), append(moreNames, name)
			}
		}
		combinations, names = more, moreNames
	}
	if !several {
		return nil, nil, fmt.Errorf("%w: no --set has several values; for one replay there is `ldalign replay`", errUsage)
	}
	return combinations, names, nil
}

// nameOf is a text as a run's name can hold it: 0.05 is 0_05.
func nameOf(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '_':
			return r
		case r == '.':
			return '_'
		}
		return '-'
	}, strings.ToLower(text))
}

func (e *env) printSweep(p sweepPlan) error {
	if e.json {
		type run struct {
			Run     string   `json:"run"`
			Set     []string `json:"set"`
			Pairs   int      `json:"pairs"`
			Steps   int      `json:"steps"`
			Seconds float64  `json:"seconds,omitempty"`
			Done    bool     `json:"done"`
		}
		var out []run
		for i, s := range p.runs {
			out = append(out, run{s.Run, p.combinations[i], p.pairs[i], p.steps(i), p.took[i].Seconds(), p.done[i]})
		}
		return printJSON(e.stdout, out)
	}
	w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "run\tset\tpairs\tsteps\ttraining, by the source's\t")
	var left time.Duration
	for i, s := range p.runs {
		cost, state := "not known", ""
		if p.took[i] > 0 {
			cost = p.took[i].Round(100 * time.Millisecond).String()
		}
		if p.done[i] {
			state = "done"
		} else {
			left += p.took[i]
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\n", s.Run, strings.Join(p.combinations[i], " "), p.pairs[i], p.steps(i), cost, state)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	names := make([]string, 0, len(roles(p.runs[0]))+1)
	for _, r := range roles(p.runs[0]) {
		names = append(names, string(r))
	}
	_, err := fmt.Fprintf(e.stdout, "stages that run: %s\ntraining that is left: about %s, and what the other stages take\n",
		strings.Join(append(names, "trainer"), ", "), left.Round(100*time.Millisecond))
	return err
}

// steps is the number of optimizer steps of a run, its iterations being equally large.
func (p sweepPlan) steps(i int) int {
	s := p.runs[i]
	iterations := s.Iterations - s.FirstIteration()
	return iterations * schedule.Steps(p.pairs[i]/iterations, s.Training.Batch, s.Training.Epochs)
}

// sweep runs what is not done, and compares all.
func (e *env) sweep(ctx context.Context, p sweepPlan, parallel int) error {
	o := runs.Options{Servers: p.runs[0].Servers, Limits: p.runs[0].Streams, Name: "ldalign-sweep"}
	return e.opened(ctx, o, func(s *runs.Session) error {
		return withEngine(p.runs[0].Compute, func(engine *tensor.Engine) error {
			return e.swept(ctx, e.node(s), p, parallel, engine)
		})
	})
}

func (e *env) swept(ctx context.Context, n *node, p sweepPlan, parallel int, engine *tensor.Engine) error {
	start := time.Now()
	if err := n.sweep(ctx, p.runs, engine, parallel); err != nil {
		return err
	}
	e.notice("%d replays of %s, %.1f s, tensor work %.0f %% of it",
		len(p.runs), p.parent.Run, time.Since(start).Seconds(), 100*engine.Busy().Seconds()/time.Since(start).Seconds())
	return e.compare(ctx, n, append([]schemas.Spec{p.parent}, p.runs...))
}

// sweep runs specs, some at the same time. One that fails leaves the others alone.
func (n *node) sweep(ctx context.Context, specs []schemas.Spec, engine *tensor.Engine, parallel int) error {
	failures := make([]error, len(specs))
	group := errgroup.Group{}
	group.SetLimit(parallel)
	for i, spec := range specs {
		group.Go(func() error {
			if ctx.Err() != nil {
				return nil
			}
			m := newMeter(n.display, spec.Run+": ")
			defer m.close()
			if err := n.everything(ctx, spec, engine, m); err != nil && !interrupted(err) {
				failures[i] = fmt.Errorf("run %s: %w", spec.Run, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	err := errors.Join(failures...)
	if ctx.Err() != nil && err == nil {
		return fmt.Errorf("%w\nldalign: the sweep goes on with the same command", trainer.ErrInterrupted)
	}
	return err
}
