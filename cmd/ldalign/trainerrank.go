package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/ldalign/ldalign/ops/play"
	"github.com/ldalign/ldalign/schemas"
)

// rankCommand is the verb play.RankVerb. The trainer starts it.
type rankCommand struct {
	Port     int           `required:"" help:"Port on this machine on which rank 0 is waiting."`
	Rank     int           `required:"" help:"This process's number, from 1."`
	Ranks    int           `required:"" help:"Number of processes."`
	Threads  int           `default:"1" help:"Threads of the tensor library."`
	Device   string        `default:"cpu" help:"cpu or cuda:N."`
	Patience time.Duration `default:"30s" help:"How long rank 0 may be silent before it counts as dead."`
}

func (rankCommand) Help() string {
	return `The trainer starts these processes if training.ranks is greater than 1. Each computes its part of every step, and ends
with the trainer.

Example:

    ldalign trainer-rank --port 41234 --rank 1 --ranks 2`
}

func (c *rankCommand) Run(ctx context.Context, _ *env) error {
	r := play.Rank{
		Port: c.Port, Rank: c.Rank, Ranks: c.Ranks, Compute: schemas.ComputeSpec{Threads: c.Threads, Device: c.Device},
		Patience: c.Patience,
	}
	return r.Follow(ctx, os.Stdin, os.Stdout, func(err error) {
		fmt.Fprintf(os.Stderr, "ldalign: trainer process %d: rank 0 %v\n", c.Rank, err)
		os.Exit(exitFailed)
	})
}
