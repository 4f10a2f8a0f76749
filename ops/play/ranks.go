package play

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
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
	"github.com/ldalign/ldalign/trainer/loop"
	"github.com/ldalign/ldalign/trainer/ranks"
)

// loopback is the address on which the ranks of a trainer, which are all on one machine, find each other.
const loopback = "127.0.0.1"

// RankVerb is the verb of this program that runs a trainer process other than the first. Its flags are those of Rank.
const RankVerb = "trainer-rank"

// Rank is a trainer process other than the first, rank 0, which starts it.
type Rank struct {
	// Port is the port on this machine on which rank 0 waits.
	Port int
	// Rank is this process's number, from 1. Ranks is the number of processes.
	Rank, Ranks int
	Compute     schemas.ComputeSpec
	// Patience is how long rank 0 may be silent before it counts as dead. It is the same in all processes.
	Patience time.Duration
}

// args returns the arguments of the command that runs the process.
func (r Rank) args() []string {
	return []string{
		RankVerb, "--port", strconv.Itoa(r.Port), "--rank", strconv.Itoa(r.Rank), "--ranks", strconv.Itoa(r.Ranks),
		"--threads", strconv.Itoa(r.Compute.Threads), "--device", r.Compute.Device, "--patience", r.Patience.String(),
	}
}

// Follow computes with rank 0 until rank 0 says that the work is over. in and out are the pipes to rank 0, for signs of life.
// Follow calls gone when rank 0 has ended or is silent for too long.
func (r Rank) Follow(ctx context.Context, in io.Reader, out io.Writer, gone func(error)) error {
	where, err := Device(r.Compute.Device)
	if err != nil {
		return err
	}
	// These goroutines run until the process ends. gone may end it at once: a call of the engine may hang, and nothing has to be
	// saved.
	go giveSigns(context.WithoutCancel(ctx), out, r.Patience)
	go func() { gone(awaitSilence(in, r.Patience)) }()
	meeting, err := tensor.AttendMeeting(loopback, r.Port, loopback, ranks.Patience)
	if err != nil {
		return err
	}
	group, err := meeting.Join(r.Rank, r.Ranks, where)
	meeting.Close()
	if err != nil {
		return err
	}
	defer group.Close()
	return WithEngine(r.Compute, func(engine *tensor.Engine) error {
		// not ctx: rank 0 says when the work is over, also after a Ctrl-C, and awaitSilence notices if it dies
		return loop.Follow(context.WithoutCancel(ctx), engine, group)
	})
}

// ranks starts size-1 processes that compute with this one, for trainer.Config. With GPUs each process has its own: this one has
// compute.device, the others the devices after it.
func (p *Player) ranks(ctx context.Context, compute schemas.ComputeSpec, size int) (*tensor.Group, func() error, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	where, err := Device(compute.Device)
	if err != nil {
		return nil, nil, err
	}
	meeting, err := tensor.HostMeeting(loopback, ranks.Patience)
	if err != nil {
		return nil, nil, err
	}
	patience := cmp.Or(p.Patience, Patience)
	others := &rankProcesses{ended: make(chan error, size), patience: patience, log: p.Log}
	for rank := 1; rank < size; rank++ {
		r := Rank{meeting.Port, rank, size, compute, patience}
		r.Compute.Device = where.Next(rank).String()
		c := exec.Command(self, r.args()...) //nolint:gosec // it is this program
		c.Stderr = os.Stderr
		c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C reaches only rank 0, which saves before it ends the others
		if err := others.start(c, rank); err != nil {
			others.kill(errNeedless)
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
	case end := <-others.ended: // before it joined; the meeting stays open, since Join is still waiting in it
		err = fmt.Errorf("a process ended before it could join: %w", errors.Join(end, tensor.ErrGroup))
		others.count--
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		others.kill(errNeedless)
		return nil, nil, errors.Join(err, others.wait())
	}
	others.group.Store(group)
	p.Log.Info().Int("ranks", size).Msg("trainer processes have joined")
	return group, others.wait, nil
}

// rankProcesses are the processes of the other ranks.
type rankProcesses struct {
	patience time.Duration // how long one may be silent
	log      zerolog.Logger
	started  []*rankProcess
	ended    chan error // in the order of their ends
	count    int        // processes whose end was not yet read from ended
	// watching waits for the goroutines that exchange signs of life with the processes.
	watching sync.WaitGroup
	// group is set once all have joined. It is aborted when a process dies.
	group atomic.Pointer[tensor.Group]
}

// rankProcess is the process of one rank.
type rankProcess struct {
	*exec.Cmd
	rank int
	// hung is the reason why this process killed it; nil if it did not.
	hung atomic.Pointer[error]
}

// kill kills a process, which may already have ended, and records the reason. The first reason counts.
func (p *rankProcess) kill(why error) {
	p.hung.CompareAndSwap(nil, &why)
	_ = p.Process.Kill() // it may have ended
}

// end turns the error of Wait into one that says how the process ended; nil if it ended normally.
func (p *rankProcess) end(err error) error {
	if err == nil {
		return nil
	}
	if why := p.hung.Load(); why != nil {
		return fmt.Errorf("trainer process %d (pid %d) %w and was killed", p.rank, p.Process.Pid, *why)
	}
	return fmt.Errorf("trainer process %d (pid %d) has ended: %w", p.rank, p.Process.Pid, err)
}

// start starts a process, and kills it when it is silent for too long. The operations of the other processes then fail.
func (r *rankProcesses) start(c *exec.Cmd, rank int) error {
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
	p := &rankProcess{Cmd: c, rank: rank}
	running, ends := context.WithCancel(context.Background())
	r.watching.Go(func() { giveSigns(running, in, r.patience) })
	r.watching.Go(func() {
		if err := awaitSilence(out, r.patience); errors.Is(err, errSilent) {
			r.log.Error().Int("rank", rank).Int("pid", c.Process.Pid).Err(err).Msg("killing a trainer process that gives no sign of life")
			p.kill(err)
		}
	})
	r.started = append(r.started, p)
	r.count++
	go func() {
		err := c.Wait() // closes the pipes, which ends awaitSilence
		ends()
		if group := r.group.Load(); err != nil && group != nil {
			group.Abort()
		}
		r.ended <- p.end(err)
	}()
	return nil
}

func (r *rankProcesses) kill(why error) {
	for _, p := range r.started {
		p.kill(why)
	}
}

// ranksGrace is how long the other processes may take to end after the work is over or has failed.
const ranksGrace = 10 * time.Second

var (
	errNeedless = errors.New("was no longer needed")
	errWedged   = fmt.Errorf("was still computing %v after the group's end", ranksGrace)
)

// wait waits until all processes have ended, and kills those that take longer than ranksGrace. Its error names each process that
// failed, and says how it ended.
func (r *rankProcesses) wait() error {
	late := time.AfterFunc(ranksGrace, func() { r.kill(errWedged) })
	defer late.Stop()
	var err error
	for ; r.count > 0; r.count-- {
		err = errors.Join(err, <-r.ended)
	}
	r.watching.Wait()
	return err
}
