// Command audit measures `ldalign audit` on a run of many pairs. It publishes a synthetic run (small messages, no disk sync) with
// the trainer's record of one iteration, and runs the audit in another process while this process runs the embedded server, as
// for a run that continues.
//
//	make build && go run ./bench/streams/audit --pairs 1000000 --program bin/ldalign
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
)

const run = "bench"

func main() {
	pairs := flag.Int("pairs", 1_000_000, "number of pairs of the run")
	program := flag.String("program", "bin/ldalign", "path of the ldalign program to measure")
	dir := flag.String("dir", "", "folder to work in; empty uses a temporary one")
	flag.Parse()
	if err := bench(context.Background(), *pairs, *program, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "audit:", err)
		os.Exit(1)
	}
}

func bench(ctx context.Context, pairs int, program, dir string) (err error) {
	if dir == "" {
		if dir, err = os.MkdirTemp("", "ldalign-bench-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	conn, err := streams.Open(ctx, streams.Options{
		Dir: filepath.Join(dir, "nats"), Limits: streams.Limits{Sync: time.Minute}, Log: zerolog.Nop(),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	start := time.Now()
	if err := fill(ctx, conn, pairs, dir); err != nil {
		return err
	}
	fmt.Printf("published %d pairs on four streams in %.1f s\n", pairs, time.Since(start).Seconds())
	start = time.Now()
	audit := exec.CommandContext(ctx, program, "audit", run, "--dir", dir)
	audit.Stdout, audit.Stderr = os.Stdout, os.Stderr
	if err := audit.Start(); err != nil {
		return err
	}
	// The child's rusage would include the memory that this process had when it forked.
	peak, ended := 0, make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for {
			peak = max(peak, highWater(audit.Process.Pid))
			select {
			case <-ended:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	err = audit.Wait()
	close(ended)
	<-watched
	if err != nil {
		return err
	}
	fmt.Printf("audited in %.1f s (%.1f s of processor), peak memory %d MiB; the server is this process\n",
		time.Since(start).Seconds(), audit.ProcessState.UserTime().Seconds()+audit.ProcessState.SystemTime().Seconds(), peak>>10)
	return nil
}

// highWater returns the peak memory of a process in KiB; 0 when the process has ended.
func highWater(pid int) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		var n int
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &n); err == nil {
			return n
		}
	}
	return 0
}

// fill publishes the run: one iteration with its pairs on all streams, trained in batches of 64.
func fill(ctx context.Context, conn *streams.Conn, pairs int, dir string) error {
	if err := conn.Declare(ctx, run, streams.Limits{}); err != nil {
		return err
	}
	store, err := checkpoints.OpenDir(dir)
	if err != nil {
		return err
	}
	spec := schemas.Default()
	spec.Run, spec.Model.From, spec.Data.Train, spec.Iterations = run, "nowhere", "nothing.jsonl", 1
	spec = schemas.Resolve(spec, 1)
	repository := checkpoints.New(store, filepath.Join(dir, "cache"), zerolog.Nop())
	first, err := repository.Commit(ctx, run, checkpoints.Draft{Kind: checkpoints.Policy, SpecDigest: spec.Digest()})
	if err != nil {
		return err
	}
	batches := checkpoints.Batches{}
	const window = 10_000
	for at := 0; at < pairs; at += window {
		var messages [4][]events.Message
		for i := at; i < min(at+window, pairs); i++ {
			pair := pairOf(i, first.Digest)
			batches.Pairs = append(batches.Pairs, pair.ID())
			for k, m := range []events.Message{
				pair.GetPrompt(), pair,
				&events.Encoded{Schema: events.Version, Pair: pair, ChosenLatent: []float32{0, 1}, RejectedLatent: []float32{1, 0}},
				&events.Scored{Schema: events.Version, Pair: pair, Distance: 1},
			} {
				messages[k] = append(messages[k], m)
			}
		}
		for k, kind := range []schemas.Kind{schemas.Prompts, schemas.Pairs, schemas.Encoded, schemas.Scored} {
			if err := conn.Publish(ctx, kind, messages[k]...); err != nil {
				return err
			}
		}
	}
	const batch = 64
	for at := 0; at < pairs; at += batch {
		step := checkpoints.Batch{Step: len(batches.Steps) + 1}
		for i := at; i < min(at+batch, pairs); i++ {
			step.Pairs = append(step.Pairs, i)
		}
		batches.Steps = append(batches.Steps, step)
	}
	_, err = repository.Commit(ctx, run, checkpoints.Draft{
		Kind: checkpoints.Policy, Iteration: 1, SpecDigest: spec.Digest(),
		Files: []checkpoints.Source{{Name: checkpoints.BatchesFile, Write: batches.Write}},
	})
	if err != nil {
		return err
	}
	text, err := spec.YAML()
	if err != nil {
		return err
	}
	return conn.Publish(ctx, schemas.Control,
		&events.Control{Schema: events.Version, Run: run, Kind: events.ControlSpec, Spec: text, SpecDigest: spec.Digest()},
		&events.Control{Schema: events.Version, Run: run, Kind: events.ControlClosed, Total: uint64(pairs)})
}

func pairOf(i int, weights string) *events.Pair {
	id := fmt.Sprintf("p%07d", i)
	ids := []int64{11, 12, 13, 14, 15, 16, 17, 18}
	return &events.Pair{
		Schema: events.Version, Rejected: "a short answer", PromptIds: ids, ChosenIds: ids[:4], RejectedIds: ids[4:],
		ChosenLogp: -1, RejectedLogp: -2, PolicyDigest: weights,
		Prompt: &events.Prompt{
			Schema: events.Version, Run: run, PairId: schemas.PairID(run, 0, id, 0), PromptId: id, Position: uint64(i),
			Prompt: "a short question", Response: "another answer", Checkpoint: weights,
		},
	}
}
