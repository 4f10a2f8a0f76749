package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer"
)

// loopback is where the ranks of a trainer, all on its machine, find each other.
const loopback = "127.0.0.1"

// rankCommand is a trainer process other than the first. The trainer starts it.
type rankCommand struct {
	Port    int    `required:"" help:"Where rank 0 waits, on this machine."`
	Rank    int    `required:"" help:"This process's number, from 1."`
	Ranks   int    `required:"" help:"Number of processes."`
	Threads int    `default:"1" help:"Threads of the tensor library."`
	Device  string `default:"cpu" help:"cpu or cuda:N."`
}

func (rankCommand) Help() string {
	return `The trainer starts these processes where training.ranks is more than 1. They compute their part of each step, and end
with the trainer.

Example:

    ldalign trainer-rank --port 41234 --rank 1 --ranks 2`
}

func (c *rankCommand) Run(ctx context.Context, _ *env) (err error) {
	where, err := device(c.Device)
	if err != nil {
		return err
	}
	// Both end with the process. The engine may be in a call that nothing here can end, and nothing here has to be saved.
	go giveSigns(context.WithoutCancel(ctx), os.Stdout, signEvery)
	go func() {
		fmt.Fprintf(os.Stderr, "ldalign: trainer process %d: rank 0 %v\n", c.Rank, awaitSilence(os.Stdin, signEvery))
		os.Exit(exitFailed)
	}()
	meeting, err := tensor.AttendMeeting(loopback, c.Port, loopback, trainer.GroupPatience)
	if err != nil {
		return err
	}
	group, err := meeting.Join(c.Rank, c.Ranks, where)
	meeting.Close()
	if err != nil {
		return err
	}
	defer group.Close()
	engine, err := tensor.NewEngine(tensor.Options{Device: where, Threads: c.Threads})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, engine.Close()) }()
	// rank 0 says when it is over, also after a Ctrl-C; when it has died, that is seen
	return trainer.Follow(context.WithoutCancel(ctx), engine, group)
}

// ranks starts size-1 processes that compute with this one, for trainer.Config. On GPUs each has one of its own, this one
// compute.device and the others those that follow it.
func (n *node) ranks(ctx context.Context, compute schemas.ComputeSpec, size int) (*tensor.Group, func() error, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	where, err := device(compute.Device)
	if err != nil {
		return nil, nil, err
	}
	meeting, err := tensor.HostMeeting(loopback, trainer.GroupPatience)
	if err != nil {
		return nil, nil, err
	}
	others := &rankProcesses{ended: make(chan error, size)}
	for rank := 1; rank < size; rank++ {
		c := exec.Command(self, "trainer-rank", //nolint:gosec // it is this program
			"--port", strconv.Itoa(meeting.Port), "--rank", strconv.Itoa(rank), "--ranks", strconv.Itoa(size),
			"--threads", strconv.Itoa(compute.Threads), "--device", where.Next(rank).String())
		c.Stderr = os.Stderr
		c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C is for rank 0, which saves first
		if err := others.start(c, n.log); err != nil {
			others.kill()
			return nil, nil, errors.Join(err, others.wait())
		}
	}
	joined := make(chan error, 1)
	var group *tensor.Group
	go func() {
		var err error
		group, err = meeting.Join(0, size, where)
		joined <- err
	}()
	select {
	case err = <-joined:
		meeting.Close()
	case end := <-others.ended: // before it had joined; the meeting is left to the process's end, for Join waits in it
		err = fmt.Errorf("a process ended before it could join: %w", errors.Join(end, tensor.ErrGroup))
		others.count--
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		others.kill()
		return nil, nil, errors.Join(err, others.wait())
	}
	others.group.Store(group)
	n.log.Info().Int("ranks", size).Msg("trainer processes have joined")
	return group, others.wait, nil
}

// rankProcesses are the processes of the other ranks.
type rankProcesses struct {
	started []*exec.Cmd
	ended   chan error
	count   int // of those whose end was not read from ended
	// watching are the goroutines that exchange signs of life with them, and end with them.
	watching sync.WaitGroup
	// group, once they have joined it, is told when one has died.
	group atomic.Pointer[tensor.Group]
}

// start starts a process, and kills it when it gives no sign of life: the operations of the others then fail.
func (r *rankProcesses) start(c *exec.Cmd, log zerolog.Logger) error {
	in, err := c.StdinPipe()
	if err != nil {
		return err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	running, ends := context.WithCancel(context.Background())
	r.watching.Go(func() { giveSigns(running, in, signEvery) })
	r.watching.Go(func() {
		if err := awaitSilence(out, signEvery); errors.Is(err, errSilent) {
			log.Error().Int("pid", c.Process.Pid).Err(err).Msg("a trainer process hangs: it is killed")
			_ = c.Process.Kill() // it may have ended
		}
	})
	r.started = append(r.started, c)
	r.count++
	go func() {
		err := c.Wait() // closes the pipes, by which awaitSilence ends
		ends()
		if group := r.group.Load(); err != nil && group != nil {
			group.Abort()
		}
		r.ended <- err
	}()
	return nil
}

func (r *rankProcesses) kill() {
	for _, c := range r.started {
		_ = c.Process.Kill() // it may have ended
	}
}

// wait waits until all have ended, and kills those that do not within some seconds.
func (r *rankProcesses) wait() error {
	const grace = 10 * time.Second
	late := time.AfterFunc(grace, r.kill)
	defer late.Stop()
	var err error
	for ; r.count > 0; r.count-- {
		err = errors.Join(err, <-r.ended)
	}
	r.watching.Wait()
	return err
}
