package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/ledger"
)

// workersOf is how many processes of each stage million runs.
const workersOf = 2

// million sends pairs through the stages, with a process for each worker. This process publishes the prompts and reads the scored
// pairs. On the way it prints the memory of all processes.
func (b *bench) million(ctx context.Context) error {
	n := b.count(1_000_000)
	if b.bytes == 4096 {
		b.bytes = 256 // 1,000,000 pairs in four logs: 4 GB instead of 20
	}
	if err := b.room(n); err != nil {
		return err
	}
	c, err := b.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	const name = "m"
	if err := c.Declare(ctx, name, limits()); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, working := errgroup.WithContext(ctx)
	watched := []process{{"nats-server", []int{b.pid}}}
	for i, s := range stages(name, 128, 0) {
		p := process{name: s.Name}
		for range workersOf {
			pid, wait, err := b.spawn(working, name, i)
			if err != nil {
				return err
			}
			p.pids = append(p.pids, pid)
			group.Go(wait)
		}
		watched = append(watched, p)
	}
	watched = append(watched, process{"prompter and reader", []int{os.Getpid()}})
	fmt.Printf("%d pairs, prompts of %d bytes, %d processes per stage; resident MB, for a stage that of its largest process\n\n",
		n, b.bytes, workersOf)
	heading(watched)
	started := time.Now()
	group.Go(func() error { return b.prompts(working, c, name, n) })
	done := 0
	err = c.Follow(working, schemas.Scored, name, 0, 0, func(streams.Received) error {
		if done++; done%max(n/20, 1) == 0 {
			row(watched, done, n, time.Since(started))
		}
		if done == n {
			return streams.ErrStop
		}
		return nil
	})
	took := time.Since(started)
	cancel()
	if err = errors.Join(err, group.Wait()); err != nil {
		return err
	}
	fmt.Printf("\n%d pairs through prompter and three stages in %v: %.0f pairs/s\n",
		n, took.Round(time.Second), float64(n)/took.Seconds())
	return b.replay(context.WithoutCancel(ctx), c, name, n)
}

// replay reads the scored pairs as the trainer of a replay does: it decodes all of them and orders them by position.
func (b *bench) replay(ctx context.Context, c *streams.Conn, name string, n int) error {
	started := time.Now()
	source, err := ledger.Survey(ctx, c, schemas.Scored, name, 0, 1)
	if err != nil {
		return err
	}
	surveyed := time.Since(started)
	read := 0
	err = c.Read(ctx, schemas.Scored, name, 0, source.First, func(streams.Received) error { read++; return nil })
	if err != nil {
		return err
	}
	reading := (time.Since(started) - surveyed).Seconds()
	if read != n {
		return fmt.Errorf("a replay would read %d of %d pairs", read, n)
	}
	fmt.Printf("replay: surveyed the ids in %.1f s (%.0f/s), read the pairs in %.1f s (%.0f/s), %d MB resident afterwards\n",
		surveyed.Seconds(), float64(n)/surveyed.Seconds(), reading, float64(n)/reading, resident(os.Getpid()))
	return nil
}

// room returns an error when the disk has too little space for the four logs.
func (b *bench) room(n int) error {
	const envelope = 900 // bytes of a message beside its prompt: headers, ids, latents
	need := uint64(n) * 4 * uint64(b.bytes+envelope)
	var fs unix.Statfs_t
	if err := unix.Statfs(b.dir, &fs); err != nil {
		return fmt.Errorf("free space of %s: %w", b.dir, err)
	}
	if free := fs.Bavail * uint64(fs.Bsize); free < need {
		return fmt.Errorf("%s has %.1f GB free, %d pairs need up to %.1f GB: name another folder with -dir",
			b.dir, float64(free)/1e9, n, float64(need)/1e9)
	}
	return nil
}

// process is a group of processes that are shown under one name.
type process struct {
	name string
	pids []int
}

func heading(watched []process) {
	line, rule := "| pairs | pairs/s | left |", "|---:|---:|---:|"
	for _, p := range watched {
		line, rule = line+" "+p.name+" |", rule+"---:|"
	}
	fmt.Println(line + "\n" + rule)
}

func row(watched []process, done, n int, took time.Duration) {
	rate := float64(done) / took.Seconds()
	left := time.Duration(float64(n-done) / rate * float64(time.Second))
	fmt.Printf("| %d | %.0f | %v |", done, rate, left.Round(time.Second))
	for _, p := range watched {
		most := 0
		for _, pid := range p.pids {
			most = max(most, resident(pid))
		}
		fmt.Printf(" %d |", most)
	}
	fmt.Println()
}

// spawn starts a process that runs one stage until ctx ends.
func (b *bench) spawn(ctx context.Context, name string, stage int) (pid int, wait func() error, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, nil, err
	}
	worker := exec.CommandContext(ctx, self, "work")
	worker.Cancel = func() error { return worker.Process.Signal(os.Interrupt) }
	worker.WaitDelay = 30 * time.Second
	worker.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %d", childEnv, b.url, name, stage))
	worker.Stderr = os.Stderr
	if err := worker.Start(); err != nil {
		return 0, nil, err
	}
	return worker.Process.Pid, func() error {
		if err := worker.Wait(); err != nil && ctx.Err() == nil {
			return fmt.Errorf("a worker of stage %d: %w", stage, err)
		}
		return nil
	}, nil
}

// work is the process that spawn starts.
func work(ctx context.Context) error {
	fields := strings.Fields(os.Getenv(childEnv))
	if len(fields) != 3 {
		return fmt.Errorf("%s is not set: only the measurement million starts this command", childEnv)
	}
	number, err := strconv.Atoi(fields[2])
	if err != nil {
		return err
	}
	b := bench{url: fields[0]}
	c, err := b.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	s := stages(fields[1], 128, 0)[number]
	return c.RunStage(ctx, s.Stage, s.process)
}

// resident returns a process's resident memory in MB.
func resident(pid int) int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(data))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.Atoi(fields[1])
	return pages * os.Getpagesize() / 1_000_000
}
