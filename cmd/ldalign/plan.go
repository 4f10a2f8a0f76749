package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ldalign/ldalign/dataset"
	"github.com/ldalign/ldalign/dataset/jsonl"
	"github.com/ldalign/ldalign/ops/plan"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/stages/prompter"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer/objective"
	"github.com/ldalign/ldalign/trainer/schedule"
)

type planCommand struct {
	Spec string   `arg:"" help:"Run spec (YAML; several documents are several runs, in order)." type:"existingfile"`
	Set  []string `help:"Override a key of every run, e.g. --set training.batch=16." placeholder:"KEY=VALUE" sep:"none"`
	serverFlags
}

func (planCommand) Help() string {
	return `Example:

    ldalign plan run.yaml
    ldalign plan run.yaml --set streams.max_bytes=8GB --json

It reads the data, the model's configuration and its tokenizer, no weights, and starts no server. All figures are estimates
of whole runs from their beginning: a sampled response counts at its full length. The exit code is 1 when
the streams' limit, the disk or the memory will not do; what to change is named.`
}

func (c *planCommand) Run(ctx context.Context, e *env) (err error) {
	specs, err := loadSpecs(c.Spec, c.Set, c.serverFlags)
	if err != nil {
		return err
	}
	if specs, err = resolve(specs); err != nil {
		return err
	}
	p := &planner{env: e, models: map[string]plannedModel{}, guides: map[string]int64{}}
	defer func() { err = errors.Join(err, p.close()) }()
	inputs := make([]plan.Input, 0, len(specs))
	for _, s := range specs {
		in, err := p.input(ctx, s)
		if err != nil {
			return fmt.Errorf("run %s: %w", s.Run, err)
		}
		inputs = append(inputs, in)
	}
	machine, err := e.machine()
	if err != nil {
		return err
	}
	runs := plan.Estimate(inputs, machine)
	problems := 0
	for i, r := range runs {
		problems += len(r.Problems)
		if e.json {
			line, err := jsonl.Marshal(r)
			if err != nil {
				return err
			}
			fmt.Fprintln(e.stdout, line)
			continue
		}
		if i > 0 {
			fmt.Fprintln(e.stdout)
		}
		fmt.Fprint(e.stdout, planText(r, inputs[i].Spec, e.workers(&inputs[i].Spec)))
	}
	if problems > 0 {
		return fmt.Errorf("%d of what the plan needs will not do", problems)
	}
	return nil
}

// input is what is known of a run.
func (p *planner) input(ctx context.Context, s schemas.Spec) (in plan.Input, err error) {
	if s.Replays() {
		return in, fmt.Errorf("%w: a replay reads its pairs from a log: `ldalign sweep --dry-run` tells what it would do", errUsage)
	}
	in = plan.Input{Spec: s, Reads: objective.TrainsFrom(s.Objective.Kind), Steps: schedule.Steps}
	if in.Limits, err = streams.ParseLimits(s.Streams); err != nil {
		return in, err
	}
	model, err := p.policy(ctx, s)
	if err != nil {
		return in, err
	}
	p.models[s.Run] = model
	if in.Policy, err = model.sizes(s); err != nil {
		return in, err
	}
	if in.Guide, err = p.guide(ctx, s, model); err != nil {
		return in, err
	}
	set, err := prompter.Load(s)
	if err != nil {
		return in, fmt.Errorf("data.train: %w", err)
	}
	if in.Train, err = model.measure(ctx, s, set); err != nil {
		return in, err
	}
	if s.Data.Eval != "" {
		held, err := prompter.LoadEval(s)
		if err != nil {
			return in, fmt.Errorf("data.eval: %w", err)
		}
		in.Held = plan.Data{Report: held.Report.String(), Records: len(held.Records), Bytes: textBytes(held)}
	}
	in.Earlier, err = p.earlier(ctx, s, in.Policy.Parameters)
	return in, err
}

// textBytes are those of all texts of a set.
func textBytes(set dataset.Set) (n int64) {
	for _, r := range set.Records {
		n += int64(len(r.ID) + len(r.Prompt) + len(r.Response) + len(r.Rejected))
	}
	return n
}

// planText is the estimate for people.
func planText(r plan.Run, s schemas.Spec, stages []string) string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-16s", name)
		fmt.Fprintf(&b, format, args...)
		b.WriteByte('\n')
	}
	line("run", "%s: an estimate of the whole run", r.Run)
	line("data", "%s: %s", s.Data.Train, r.Data)
	line("iterations", "%d, each of %d pairs; %d pairs in all", r.Iterations, r.Pairs, r.AllPairs)
	line("stages", "%s", strings.Join(stages, ", "))
	steps := fmt.Sprintf("%d in each iteration", r.Steps)
	if r.LaterSteps != r.Steps && r.Iterations > 1 {
		steps = fmt.Sprintf("%d in the first iteration, %d in each later one", r.Steps, r.LaterSteps)
	}
	if r.GuideSteps > 0 {
		steps += fmt.Sprintf(", %d of the guide", r.GuideSteps)
	}
	line("optimizer steps", "%s", steps)
	line("messages", "limit of each log %s", plan.Size(r.Logs[0].Limit))
	for _, l := range r.Logs {
		if l.Messages == 0 && l.Filled == 0 {
			continue
		}
		before := ""
		if l.Filled > l.Bytes {
			before = fmt.Sprintf(", %s with the runs before", plan.Size(l.Filled))
		}
		line("  "+string(l.Kind), "%d, %s%s: %.1f %%", l.Messages, plan.Size(l.Bytes), before, 100*float64(l.Filled)/float64(l.Limit))
	}
	c := r.Checkpoints
	line("checkpoints", "%s", plan.Size(c.TotalBytes))
	line("  policies", "%s for %d", plan.Size(c.Policies), c.NPolicies)
	for _, part := range []struct {
		name  string
		bytes int64
	}{{"adapters", c.Adapters}, {"guide", c.Guide}} {
		if part.bytes > 0 {
			line("  "+part.name, "%s", plan.Size(part.bytes))
		}
	}
	line("  states", "%s for %d at one time", plan.Size(c.States), c.NStates)
	line("disk", "%s of %s free in %s", plan.Size(r.Disk.Need), plan.Size(r.Disk.Free), r.Disk.Folder)
	machine := plan.Size(r.Memory.Machine)
	if r.Memory.Machine == 0 {
		machine = "what is not known"
	}
	line("memory", "%s of %s, for %s", plan.Size(r.Memory.Need), machine, r.Memory.Of)
	for _, role := range r.Memory.Roles {
		parts := make([]string, 0, len(role.Parts))
		for _, p := range role.Parts {
			parts = append(parts, p.Name+" "+plan.Size(p.Bytes))
		}
		line("  "+role.Name, "%s: %s", plan.Size(role.Bytes), strings.Join(parts, ", "))
	}
	if r.Time.TrainSeconds == nil {
		line("time", "not known before the first iteration")
	} else {
		took := time.Duration(*r.Time.TrainSeconds * float64(time.Second)).Round(time.Second)
		line("time", "about %v for an iteration's optimizer steps, as fast as run %s; sampling is not known", took, r.Time.From)
	}
	for _, w := range r.Warnings {
		line("warning", "%s", w)
	}
	for _, p := range r.Problems {
		line("will not do", "%s", p.Text)
	}
	if len(r.Problems) == 0 {
		line("will do", "logs, disk and memory, by this estimate")
	}
	return b.String()
}
