package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ldalign/ldalign/dataset"
	"github.com/ldalign/ldalign/dataset/jsonl"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/ops/pipeline"
	"github.com/ldalign/ldalign/ops/plan"
	"github.com/ldalign/ldalign/ops/progress"
	"github.com/ldalign/ldalign/ops/report"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/ops/telemetry"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/stages/prompter"
	"github.com/ldalign/ldalign/trainer/activity"
	"github.com/ldalign/ldalign/trainer/fit"
	"github.com/ldalign/ldalign/trainer/schedule"
)

type upCommand struct {
	Spec     string   `arg:"" help:"Run spec (YAML; several documents are several runs, in order)." type:"existingfile"`
	Set      []string `help:"Override a key of every run, e.g. --set training.batch=16." placeholder:"KEY=VALUE" sep:"none"`
	Listen   string   `help:"Address on which the embedded NATS server accepts other programs, e.g. 127.0.0.1:4222." placeholder:"HOST:PORT"`
	Insecure bool     `help:"Allow --listen an address that other machines can reach, although the embedded server has neither TLS nor passwords."`
	DryRun   bool     `help:"Check the spec and its files, print the resolved spec, and stop."`
	serverFlags
}

func (upCommand) Help() string {
	return `Example:

    ldalign up run.yaml
    ldalign up run.yaml --set objective.beta=0.5 --set run=beta-05

Without --nats and --s3, ldalign uses an embedded NATS server and a checkpoint store in the folder that --dir names. However
a run was stopped, the same command continues it. docs/spec.md explains every key of the spec.`
}

func (c *upCommand) Run(ctx context.Context, e *env) error {
	specs, err := loadSpecs(c.Spec, c.Set, c.serverFlags)
	if err != nil {
		return err
	}
	specs, err = schemas.ResolveAll(specs)
	if err != nil {
		return err
	}
	if _, _, err := net.SplitHostPort(c.Listen); c.Listen != "" && err != nil {
		return fmt.Errorf("%w: --listen %s: want HOST:PORT, such as 127.0.0.1:4222", errUsage, c.Listen)
	}
	if c.DryRun {
		return e.dryRun(ctx, specs)
	}
	e.listen, e.insecure = c.Listen, c.Insecure
	return e.up(ctx, specs, filepath.Base(c.Spec))
}

// showSpec prints a resolved spec as a document, or as an object with --json.
func (e *env) showSpec(s schemas.Spec) error {
	if e.json {
		return e.printSpecJSON(s)
	}
	fmt.Fprintln(e.stdout, "---")
	return e.printSpec(s)
}

// printSpec prints a resolved spec as a YAML document.
func (e *env) printSpec(s schemas.Spec) error {
	text, err := s.YAML()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(e.stdout, "# digest %s\n%s", s.Digest(), text)
	return err
}

// printSpecJSON prints a resolved spec as an object: its run, its digest, the properties in more, and all keys under "spec".
func (e *env) printSpecJSON(s schemas.Spec, more ...property) error {
	keys, err := s.JSON()
	if err != nil {
		return err
	}
	var o jsonl.Object
	fields := append([]property{{"run", s.Run}, {"digest", s.Digest()}}, more...)
	for _, c := range append(fields, property{"spec", json.RawMessage(keys)}) {
		if err := o.Set(c.name, c.value); err != nil {
			return err
		}
	}
	return printJSON(e.stdout, []jsonl.Object{o})
}

// onDevice estimates runs that one process computes on a GPU. It returns nil for the CPU, and for replays, which cannot be
// planned.
func (e *env) onDevice(ctx context.Context, specs []schemas.Spec) ([]plan.Run, error) {
	device := specs[0].Compute.Device
	if i := slices.IndexFunc(specs, func(s schemas.Spec) bool { return s.Compute.Device != device }); i > 0 {
		return nil, fmt.Errorf("%w: run %s computes on %s, and run %s on %s (compute.device): the runs of one command share a device",
			errUsage, specs[0].Run, device, specs[i].Run, specs[i].Compute.Device)
	}
	if device == "cpu" || slices.ContainsFunc(specs, schemas.Spec.Replays) {
		return nil, nil
	}
	_, planned, err := e.estimate(ctx, specs)
	return planned, err
}

// dryRun checks the files that the specs name. It prints each resolved spec with its numbers of pairs and steps, and the memory
// that it needs on a GPU.
func (e *env) dryRun(ctx context.Context, specs []schemas.Spec) error {
	planned, err := e.onDevice(ctx, specs)
	if err != nil {
		return err
	}
	for i, s := range specs {
		set, err := prompter.Load(s)
		if err != nil {
			return err
		}
		pairs := len(set.Records) * prompter.Samples(s)
		steps := schedule.Steps(pairs, s.Training.Batch, s.Training.Epochs)
		held, model, err := filesOf(s)
		if err != nil {
			return err
		}
		if e.json {
			more := []property{{"data", set.Report}, {"pairs_per_iteration", pairs}, {"steps_per_iteration", steps}}
			if held != nil {
				more = append(more, property{"eval", held.Report})
			}
			if planned != nil {
				more = append(more, property{"device_memory", planned[i].Memory.Device})
			}
			if err := e.printSpecJSON(s, more...); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(e.stdout, "---\n# %s: %s\n# %s of %s and %s each\n", s.Data.Train,
			set.Report, progress.Count(int64(s.Iterations), "iterations"), progress.Count(int64(pairs), "pairs"),
			progress.Count(int64(steps), "optimizer steps"))
		if held != nil {
			fmt.Fprintf(e.stdout, "# %s: %s\n", s.Data.Eval, held.Report)
		}
		if planned != nil {
			fmt.Fprintf(e.stdout, "# memory: %s\n", deviceText(planned[i]))
		}
		if model != nil {
			fmt.Fprintf(e.stdout, "# %s: %s, %d layers of width %d\n", s.Model.From, model.Family, model.Layers, model.Hidden)
		}
		if err := e.printSpec(s); err != nil {
			return err
		}
	}
	return nil
}

// filesOf reads the held-out data and the model's configuration; each is nil if the spec names none.
func filesOf(s schemas.Spec) (held *dataset.Set, model *architecture.Config, err error) {
	if s.Data.Eval != "" {
		set, err := prompter.LoadEval(s)
		if err != nil {
			return nil, nil, err
		}
		held = &set
	}
	if s.Model.From != "scratch" && !strings.HasPrefix(s.Model.From, "run:") {
		config, err := architecture.ReadConfig(os.DirFS(s.Model.From))
		if err != nil {
			return nil, nil, fit.ModelError(s.Model.From, err)
		}
		if err := fit.Context(s, config); err != nil {
			return nil, nil, fmt.Errorf("run %s: %w", s.Run, err)
		}
		model = &config
	}
	return held, model, nil
}

// up plays the runs one after the other, and writes a report on all of them.
func (e *env) up(ctx context.Context, specs []schemas.Spec, title string) error {
	planned, err := e.onDevice(ctx, specs)
	if err != nil {
		return err
	}
	for _, r := range planned {
		if err := r.Refuse(); err != nil {
			return err
		}
	}
	o := runs.Options{Servers: specs[0].Servers, Limits: specs[0].Streams, Name: "ldalign-up"}
	return e.opened(ctx, o, func(s *runs.Session) error {
		return withEngine(specs[0].Compute, func(engine *pipeline.Engine) error {
			return e.played(ctx, s, engine, specs, title)
		})
	})
}

// played plays the runs with an engine, and writes the report.
func (e *env) played(ctx context.Context, s *runs.Session, engine *pipeline.Engine, specs []schemas.Spec, title string) error {
	start := time.Now()
	screen := telemetry.NewScreen(e.display)
	player := e.player(s, engine, screen)
	for _, spec := range specs {
		err := player.Run(ctx, spec)
		screen.End(spec.Run)
		if activity.Interrupted(err) {
			return goesOn(spec.Run)
		}
		if err != nil {
			return fmt.Errorf("run %s: %w", spec.Run, err)
		}
	}
	in, err := e.report(ctx, s, specs, title)
	if err != nil {
		return err
	}
	wall := time.Since(start).Seconds()
	share := player.Busy().Seconds() / wall
	in.WallSeconds, in.TensorShare, in.Stages = wall, &share, screen.Stages(e.workers(nil))
	return e.writeReport(specs, in)
}

// reportRun returns the run whose folder holds the report on several runs: the first whose objective is not sft, else the last.
func reportRun(specs []schemas.Spec) string {
	for _, s := range specs {
		if s.Objective.Kind != "sft" {
			return s.Run
		}
	}
	return specs[len(specs)-1].Run
}

// writeReport writes a report and prints its verdict and table.
func (e *env) writeReport(specs []schemas.Spec, in report.Input) error {
	dir := e.reportDir(reportRun(specs))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if err := report.Write(dir, in); err != nil {
		return err
	}
	if e.json {
		return printJSON(e.stdout, in.Rows)
	}
	verdict := report.Judge(in)
	fmt.Fprintf(e.stdout, "\n%s\n%s\n", report.Table(in), verdict.Headline)
	for _, finding := range verdict.Findings {
		fmt.Fprintf(e.stdout, "- %s\n", finding.Text)
	}
	fmt.Fprintf(e.stdout, "\n%s\nreport: %s\n", speeds(in), filepath.Join(dir, "report", "index.html"))
	return nil
}
