package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
)

const (
	// The measurement runs leaves finishedRuns runs of pairsOfRun pairs, and a large one, on the server.
	finishedRuns = 500
	pairsOfRun   = 30
	largeRun     = "large"
)

// runs fills an embedded server with 500 small runs and the consumers of their stages. It measures how long the server takes to
// start, its memory, and its processor time when idle, and then the deletion of a run with many messages.
func (b *bench) runs(ctx context.Context) error {
	dir, err := os.MkdirTemp(b.dir, "ldalign-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c, err := streams.Open(ctx, streams.Options{
		Dir: filepath.Join(dir, "nats"), Log: zerolog.Nop(), Limits: streams.Limits{Sync: time.Minute}, // nothing of this is measured
	})
	if err != nil {
		return err
	}
	for i := range finishedRuns {
		if err := b.finished(ctx, c, fmt.Sprintf("run-%d", i), pairsOfRun); err != nil {
			return err
		}
	}
	n := b.count(1_000_000) / 4 // on each of the four logs of pairs
	if err := b.finished(ctx, c, largeRun, n); err != nil {
		return err
	}
	if err := c.Close(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	child := exec.CommandContext(ctx, self, "hold-runs") // a new process, which has not written these runs
	child.Env, child.Stdout, child.Stderr = append(os.Environ(), childEnv+"="+dir), os.Stdout, os.Stderr
	return child.Run()
}

// holdRuns is the process that runs starts. It opens the server and measures it.
func holdRuns(ctx context.Context) error {
	began := time.Now()
	c, err := streams.Open(ctx, streams.Options{Dir: filepath.Join(os.Getenv(childEnv), "nats"), Log: zerolog.Nop()})
	if err != nil {
		return err
	}
	defer c.Close()
	started, memory := time.Since(began), resident(os.Getpid())
	before := processorTime()
	time.Sleep(10 * time.Second)
	fmt.Printf("%d finished runs and a large one: start %.1f s, %d MB resident, %v of processor time in 10 idle seconds\n",
		finishedRuns, started.Seconds(), memory, processorTime()-before)
	began = time.Now()
	if err := c.DeleteRun(ctx, largeRun); err != nil {
		return err
	}
	fmt.Printf("the large run deleted in %.2f s\n", time.Since(began).Seconds())
	return nil
}

// finished makes a finished run of n pairs, with the consumers that its stages leave.
func (b *bench) finished(ctx context.Context, c *streams.Conn, run string, n int) error {
	if err := c.Declare(ctx, run, streams.Limits{}); err != nil {
		return err
	}
	const part = 4096
	for at := 0; at < n; at += part {
		byKind := map[schemas.Kind][]events.Message{}
		for i := at; i < min(at+part, n); i++ {
			id := strconv.Itoa(i)
			p := &events.Prompt{
				Schema: events.Version, Run: run, PairId: schemas.PairID(run, 0, id, 0), PromptId: id, Position: uint64(i), Prompt: "x",
			}
			pair := &events.Pair{Schema: events.Version, Prompt: p, Rejected: "y'"}
			byKind[schemas.Prompts] = append(byKind[schemas.Prompts], p)
			byKind[schemas.Pairs] = append(byKind[schemas.Pairs], pair)
			byKind[schemas.Encoded] = append(byKind[schemas.Encoded], &events.Encoded{Schema: events.Version, Pair: pair})
			byKind[schemas.Scored] = append(byKind[schemas.Scored], &events.Scored{Schema: events.Version, Pair: pair})
		}
		for _, kind := range schemas.PairKinds() {
			if err := c.Publish(ctx, kind, byKind[kind]...); err != nil {
				return err
			}
		}
	}
	for stage, kind := range map[string]schemas.Kind{
		"prompter": schemas.Checkpoints, "generator": schemas.Prompts, "encoder": schemas.Pairs, "distance": schemas.Encoded,
		"evaluator": schemas.Checkpoints,
	} {
		if err := c.SettleUpTo(ctx, stage, kind, run, uint64(n)); err != nil {
			return err
		}
	}
	return c.Publish(ctx, schemas.Control, &events.Control{
		Schema: events.Version, Run: run, Kind: events.ControlClosed, Total: uint64(n),
	})
}

// processorTime returns the processor time that this process has used.
func processorTime() time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Round(10 * time.Millisecond)
}
