package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/activity"
)

type trainCommand struct {
	Spec   string   `arg:"" help:"Run spec (YAML; several documents are several runs, in order)." type:"existingfile"`
	Set    []string `help:"Override a key of every run, e.g. --set training.batch=16." placeholder:"KEY=VALUE" sep:"none"`
	Out    string   `help:"Write the last run's newest policy into this folder, in the format of transformers." type:"path" placeholder:"FOLDER"`
	DryRun bool     `help:"Check the spec and its files, print the resolved spec, and stop."`
	serverFlags
}

func (trainCommand) Help() string {
	return `Example:

    ldalign train dpo.yaml --out ./aligned
    ldalign train spin.yaml --set objective.kind=spin --set iterations=1

Runs the trainer on files; nothing is sampled. Objective sft takes prompts with responses; dpo, spin and ldalign take pairs,
with the rejected (or generated) responses of data.train. Reference log-probabilities are computed with the model that the
run starts from, or read from columns of the data; ldalign measures distances with a guide, or reads them from a column
(objective.distance: given). See docs/training.md. However the command was stopped, the same command continues. Log, audit and
metrics are as with ldalign up.`
}

func (c *trainCommand) Run(ctx context.Context, e *env) error {
	specs, err := loadSpecs(c.Spec, c.Set, c.serverFlags)
	if err != nil {
		return err
	}
	for i := range specs {
		if err := fromFiles(&specs[i]); err != nil {
			return err
		}
	}
	if specs, err = schemas.ResolveAll(specs); err != nil {
		return err
	}
	if c.DryRun {
		return e.dryRun(ctx, specs)
	}
	if _, err := os.Stat(c.Out); c.Out != "" && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: %s exists; name a folder that does not", errUsage, c.Out)
	}
	if err := e.up(ctx, specs, filepath.Base(c.Spec)); err != nil {
		return err
	}
	if c.Out == "" {
		return nil
	}
	n, err := e.store(ctx, specs[0].Servers)
	if err != nil {
		return err
	}
	run := specs[len(specs)-1].Run
	manifest, err := n.Checkpoints.Latest(ctx, run, checkpoints.Policy)
	if err != nil {
		return err
	}
	if err := n.Checkpoints.Materialise(ctx, manifest, c.Out); err != nil {
		return err
	}
	e.notice("%s: policy of run %s after iteration %d (digest %.12s)",
		c.Out, run, manifest.Iteration, manifest.Digest)
	return nil
}

// fromFiles makes a spec take its pairs from the data. It returns an error for more than one iteration: every iteration would
// train on the same pairs.
func fromFiles(s *schemas.Spec) error {
	if s.Objective.Kind != "spin" && s.Objective.Kind != "ldalign" {
		return nil
	}
	s.Generation.From = "data"
	if s.Iterations != 1 {
		return fmt.Errorf("%w: iterations is %d, but ldalign train samples nothing, so later iterations of %s would train on "+
			"the same pairs: set iterations: 1, or use ldalign up, which samples new pairs in each iteration",
			errUsage, s.Iterations, s.Objective.Kind)
	}
	return nil
}

// goesOn returns the error of an interrupted run.
func goesOn(run string) error {
	return fmt.Errorf("%w\nldalign: run the same command to continue run %s", activity.ErrInterrupted, run)
}
