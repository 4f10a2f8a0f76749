package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/dataset/jsonl"
	"github.com/ldalign/ldalign/ops/plan"
	"github.com/ldalign/ldalign/schemas"
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

Reads the data, the model's configuration and its tokenizer, but no weights, and starts no server. All figures are estimates for
a complete run, from its beginning; a sampled response counts with the greatest possible length. The exit code is 1 if the
limit of the streams, the disk or the memory, of this machine or of the device that it has, is too small; the plan then names
the key to change.`
}

func (c *planCommand) Run(ctx context.Context, e *env) (err error) {
	specs, err := loadSpecs(c.Spec, c.Set, c.serverFlags)
	if err != nil {
		return err
	}
	if specs, err = schemas.ResolveAll(specs); err != nil {
		return err
	}
	inputs, runs, err := e.estimate(ctx, specs)
	if err != nil {
		return err
	}
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
		return fmt.Errorf("%d requirements of the plan are not met", problems)
	}
	return nil
}

// estimate estimates runs on this machine.
func (e *env) estimate(ctx context.Context, specs []schemas.Spec) (_ []plan.Input, _ []plan.Run, err error) {
	p := &plan.Planner{
		Dir: e.dir, Tokenizer: planTokenizer,
		Store: func(ctx context.Context, servers schemas.ServersSpec) (*checkpoints.Repository, error) {
			s, err := e.store(ctx, servers)
			if err != nil {
				return nil, err
			}
			return s.Checkpoints, nil
		},
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	inputs, err := p.Inputs(ctx, specs)
	if err != nil {
		return nil, nil, err
	}
	cache, err := e.cacheBytes()
	if err != nil {
		return nil, nil, err
	}
	machine, err := plan.ThisMachine(e.dir, cache)
	if err != nil {
		return nil, nil, err
	}
	if machine.Devices, err = freeMemory(specs); err != nil {
		return nil, nil, err
	}
	return inputs, plan.Estimate(inputs, machine), nil
}

// deviceText says what a run needs on its device; "" for the CPU.
func deviceText(r plan.Run) string {
	d := r.Memory.Device
	if d == nil {
		return ""
	}
	free := plan.Size(d.Free)
	if d.Free == 0 {
		free = "an unknown amount"
	}
	return fmt.Sprintf("%s of %s free on %s, for %s", plan.Size(d.Need), free, d.Name, d.Of)
}

// planText formats an estimate for people.
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
			before = fmt.Sprintf(", %s with the other messages in its log", plan.Size(l.Filled))
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
		machine = "an unknown amount"
	}
	line("memory", "%s of %s, for %s", plan.Size(r.Memory.Need), machine, r.Memory.Of)
	roles := func(device bool) {
		for _, role := range r.Memory.Roles {
			bytes := role.Bytes
			if device {
				bytes = role.Device
			}
			var parts []string
			for _, p := range role.Parts {
				if p.Device == device {
					parts = append(parts, p.Name+" "+plan.Size(p.Bytes))
				}
			}
			if bytes > 0 || !device {
				line("  "+role.Name, "%s: %s", plan.Size(bytes), strings.Join(parts, ", "))
			}
		}
	}
	roles(false)
	if text := deviceText(r); text != "" {
		line("device memory", "%s", text)
		roles(true)
	}
	if r.Time.TrainSeconds == nil {
		line("time", "unknown before the first iteration")
	} else {
		took := time.Duration(*r.Time.TrainSeconds * float64(time.Second)).Round(time.Second)
		line("time", "about %v for an iteration's optimizer steps, at the speed of run %s; the time for sampling is unknown",
			took, r.Time.From)
	}
	for _, w := range r.Warnings {
		line("warning", "%s", w)
	}
	for _, p := range r.Problems {
		line("not met", "%s", p.Text)
	}
	if len(r.Problems) == 0 {
		line("all met", "logs, disk and memory are sufficient by this estimate")
	}
	return b.String()
}
