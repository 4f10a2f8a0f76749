package main

import (
	"context"
	_ "embed"
	"fmt"
	"strconv"
	"strings"

	"github.com/ldalign/ldalign/schemas"
)

// demoSpec is the spec of the demo: five runs, where later ones start from earlier ones.
//
//go:embed demo.yaml
var demoSpec []byte

type demoCommand struct {
	Seeds     int      `help:"Repeat all runs with this many seeds, and report mean and spread." default:"1"`
	PrintSpec bool     `help:"Print the demo's spec and stop. ldalign up can run it."`
	Set       []string `help:"Override a key of every run." placeholder:"KEY=VALUE" sep:"none"`
}

func (demoCommand) Help() string {
	return `Example:

    ldalign demo
    ldalign demo --seeds 3
    ldalign demo --print-spec > demo.yaml

Trains a small base model on noisy answers, fine-tunes it briefly on clean ones, and aligns it with LD-Align on the same clean
data. For comparison it also aligns it with SPIN, and fine-tunes it further. A program checks every answer. The demo prints the
result, good or bad. However it was stopped, the same command continues; a finished demo prints its table again.`
}

func (c *demoCommand) Run(ctx context.Context, e *env) error {
	if c.PrintSpec && !e.json {
		_, err := e.stdout.Write(demoSpec)
		return err
	}
	if c.Seeds < 1 {
		return fmt.Errorf("%w: --seeds must be at least 1", errUsage)
	}
	var all []schemas.Spec
	for seed := 1; seed <= c.Seeds; seed++ {
		specs, err := schemas.ParseSpecs("demo.yaml", demoSpec)
		if err != nil {
			return err
		}
		for i := range specs {
			specs[i].Seed = uint64(seed)
			if seed > 1 {
				renumber(&specs[i], seed)
			}
			for _, s := range c.Set {
				if err := schemas.Set(&specs[i], s); err != nil {
					return err
				}
			}
		}
		all = append(all, specs...)
	}
	all, err := schemas.ResolveAll(all)
	if err != nil {
		return err
	}
	if c.PrintSpec {
		for _, s := range all {
			if err := e.printSpecJSON(s); err != nil {
				return err
			}
		}
		return nil
	}
	return e.up(ctx, all, "LD-Align demo")
}

// renumber renames the runs of a further seed, also where they refer to each other: demo-x becomes demo2-x.
func renumber(spec *schemas.Spec, seed int) {
	for _, name := range []*string{&spec.Run, &spec.Model.From, &spec.Guide.From, &spec.Evaluation.Guide} {
		*name = strings.Replace(*name, "demo-", "demo"+strconv.Itoa(seed)+"-", 1)
	}
}
