// Command streams measures the cost of the transport. It runs the four logs and three stages of a run, with stages whose work
// takes no time.
//
//	go run ./bench/streams transport -server .native/servers/nats-server -nats nats
//	go run ./bench/streams scaling -server …
//	go run ./bench/streams million -server …	(about 10 minutes and 4 GB of disk)
//	go run ./bench/streams redelivery -server …
//	go run ./bench/streams runs		(2 GB of disk)
//
// It starts a real nats-server that syncs every message, as the embedded one does.
//
//   - transport sends pairs of 4 KiB through the stages with 1 to 16 workers per stage, each with its own connection, and
//     compares the rate with that of `nats bench` on the same server;
//   - scaling does so with work of 50 ms per pair;
//   - million sends 1,000,000 pairs through stages that run as processes, shows the memory of every process, and reads the log
//     again as a replay does;
//   - redelivery kills a worker that holds a batch and measures the time until another worker has processed it;
//   - runs measures an embedded server that holds 500 finished runs, and the deletion of a large run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "streams:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has run
	}
}

// bench holds the flags and the server of one invocation.
type bench struct {
	server, cli, dir string
	pairs, bytes     int
	// url and pid belong to the running server.
	url string
	pid int
}

func run(ctx context.Context, args []string) (err error) {
	if len(args) == 0 {
		return errors.New("name a measurement: transport, scaling, million, redelivery, runs")
	}
	var b bench
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.StringVar(&b.server, "server", ".native/servers/nats-server", "path of nats-server (ops/native/servers.sh builds it)")
	flags.StringVar(&b.cli, "nats", "nats", "path of the nats command, with which transport measures raw rates")
	flags.StringVar(&b.dir, "dir", os.TempDir(), "folder on the disk to measure")
	flags.IntVar(&b.pairs, "pairs", 0, "number of pairs; 0 is the measurement's default")
	flags.IntVar(&b.bytes, "bytes", 4096, "size of a pair in bytes")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	switch args[0] {
	case "hold":
		return hold(ctx)
	case "work":
		return work(ctx)
	case "hold-runs":
		return holdRuns(ctx)
	case "runs": // it starts the embedded server
		return b.runs(ctx)
	}
	stop, err := b.start(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	switch args[0] {
	case "transport":
		return b.transport(ctx)
	case "scaling":
		return b.scaling(ctx)
	case "million":
		return b.million(ctx)
	case "redelivery":
		return b.redelivery(ctx)
	}
	return fmt.Errorf("unknown measurement %q: want transport, scaling, million, redelivery or runs", args[0])
}

// start starts the server on a new folder.
func (b *bench) start(ctx context.Context) (stop func() error, err error) {
	dir, err := os.MkdirTemp(b.dir, "ldalign-bench-")
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "nats.conf")
	text := fmt.Sprintf("listen: %q\njetstream {\n  store_dir: %q\n  max_file_store: 512GB\n  sync_interval: always\n}\n",
		address, dir)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	server := exec.CommandContext(ctx, b.server, "--config", config)
	if err := server.Start(); err != nil {
		return nil, err
	}
	b.url, b.pid = "nats://"+address, server.Process.Pid
	return func() error {
		_ = server.Process.Kill() // it may have ended with ctx
		_ = server.Wait()
		return os.RemoveAll(dir)
	}, nil
}

// connect opens another connection, as another process would.
func (b *bench) connect(ctx context.Context) (*streams.Conn, error) {
	for try := 0; ; try++ {
		c, err := streams.Open(ctx, streams.Options{URL: b.url, Name: "bench", Log: zerolog.Nop(), Limits: limits()})
		if err == nil {
			return c, nil
		}
		if try == 50 {
			return nil, err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// limits returns the limits of a run. The server's 512 GB suffice for more than ten such runs.
func limits() streams.Limits { return streams.Limits{MaxBytes: 8 << 30} }

// stage is one of the three stages between the prompts and the trainer.
type stage struct {
	streams.Stage
	process streams.Process
}

// stages returns the stages of a run. Their work on each message takes a given time.
func stages(run string, batch int, work time.Duration) []stage {
	turn := func(f func(events.Message) streams.Emit) streams.Process {
		return func(ctx context.Context, in []events.Message) []streams.Outcome {
			out := make([]streams.Outcome, len(in))
			for i, m := range in {
				if work > 0 {
					select {
					case <-time.After(work):
					case <-ctx.Done():
					}
				}
				out[i].Out = []streams.Emit{f(m)}
			}
			return out
		}
	}
	latent := make([]float32, 32)
	named := func(name string, in schemas.Kind, process streams.Process) stage {
		return stage{streams.Stage{Name: name, In: in, Run: run, Batch: batch}, process}
	}
	return []stage{
		named("generator", schemas.Prompts, turn(func(m events.Message) streams.Emit {
			return streams.Emit{Kind: schemas.Pairs, Msg: &events.Pair{Schema: events.Version, Prompt: m.(*events.Prompt), Rejected: "y'"}}
		})),
		named("encoder", schemas.Pairs, turn(func(m events.Message) streams.Emit {
			return streams.Emit{Kind: schemas.Encoded, Msg: &events.Encoded{
				Schema: events.Version, Pair: m.(*events.Pair), ChosenLatent: latent, RejectedLatent: latent,
			}}
		})),
		named("distance", schemas.Encoded, turn(func(m events.Message) streams.Emit {
			return streams.Emit{Kind: schemas.Scored, Msg: &events.Scored{
				Schema: events.Version, Pair: m.(*events.Encoded).GetPair(), Distance: 1,
			}}
		})),
	}
}

// prompts publishes n prompts of the given size, and then that the iteration is closed.
func (b *bench) prompts(ctx context.Context, c *streams.Conn, run string, n int) error {
	if err := c.Declare(ctx, run, limits()); err != nil {
		return err
	}
	text := strings.Repeat("lorem ipsum ", b.bytes/12)
	const part = 4096
	for at := 0; at < n; at += part {
		var messages []events.Message
		for i := at; i < min(at+part, n); i++ {
			id := strconv.Itoa(i)
			messages = append(messages, &events.Prompt{
				Schema: events.Version, Run: run, PairId: schemas.PairID(run, 0, id, 0), PromptId: id, Position: uint64(i), Prompt: text,
			})
		}
		if err := c.Publish(ctx, schemas.Prompts, messages...); err != nil {
			return err
		}
	}
	return c.Publish(ctx, schemas.Control, &events.Control{
		Schema: events.Version, Run: run, Kind: events.ControlClosed, Total: uint64(n),
	})
}

// through runs workers of each stage until n scored pairs are stored, and returns how long that took.
func (b *bench) through(ctx context.Context, list []stage, workers, n int) (time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, working := errgroup.WithContext(ctx)
	var conns []*streams.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for range workers {
		for range list {
			c, err := b.connect(ctx)
			if err != nil {
				return 0, err
			}
			conns = append(conns, c)
		}
	}
	reader, err := b.connect(ctx)
	if err != nil {
		return 0, err
	}
	defer reader.Close()
	started := time.Now()
	for i, c := range conns {
		s := list[i%len(list)]
		group.Go(func() error { return c.RunStage(working, s.Stage, s.process) })
	}
	last := list[len(list)-1]
	out := map[schemas.Kind]schemas.Kind{schemas.Prompts: schemas.Pairs, schemas.Encoded: schemas.Scored}[last.In]
	done := 0
	err = reader.Follow(working, out, last.Run, 0, 0, func(streams.Received) error {
		if done++; done == n {
			return streams.ErrStop
		}
		return nil
	})
	took := time.Since(started)
	cancel()
	return took, errors.Join(err, group.Wait())
}

func (b *bench) transport(ctx context.Context) error {
	n := b.count(20_000)
	c, err := b.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	fmt.Printf("%d pairs of %d bytes, nats-server syncs every message\n\n", n, b.bytes)
	publish, err := b.publish(ctx, n)
	if err != nil {
		return err
	}
	consume, err := b.raw(ctx, "js", "fetch", "--msgs", strconv.Itoa(n), "--batch", "128", "--no-progress")
	if err != nil {
		return err
	}
	// one after the other on one server: a message that is published and consumed takes the sum of both times
	raw := 1 / (1/publish + 1/consume)
	three, err := b.three(ctx, n)
	if err != nil {
		return err
	}
	fmt.Printf("nats bench: publish %.0f/s, consume %.0f/s; both for each message: %.0f/s\n", publish, consume, raw)
	fmt.Printf("nats bench to three streams at once: publish %.0f/s to each\n\n", three)
	fmt.Println("| workers a stage | pairs/s | messages/s (3 a pair) | share of raw | of three streams' |")
	fmt.Println("|---:|---:|---:|---:|---:|")
	for _, workers := range []int{1, 2, 4, 8, 16} {
		name := fmt.Sprintf("t%d", workers)
		if err := b.prompts(ctx, c, name, n); err != nil {
			return err
		}
		took, err := b.through(ctx, stages(name, 128, 0), workers, n)
		if err != nil {
			return err
		}
		rate := float64(n) / took.Seconds()
		fmt.Printf("| %d | %.0f | %.0f | %.2f | %.2f |\n", workers, rate, 3*rate, 3*rate/raw, rate/three)
	}
	return nil
}

var rate = regexp.MustCompile(`([0-9][0-9,.]*) msgs/sec`)

// raw runs `nats bench` and returns the rate that it measures, in messages per second.
func (b *bench) raw(ctx context.Context, args ...string) (float64, error) {
	command := exec.CommandContext(ctx, b.cli, append([]string{"bench", "--server", b.url}, args...)...)
	text, err := command.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%s: %w\n%s", command, err, text)
	}
	found := rate.FindSubmatch(text)
	if found == nil {
		return 0, fmt.Errorf("%s printed no rate:\n%s", command, text)
	}
	return strconv.ParseFloat(strings.ReplaceAll(string(found[1]), ",", ""), 64)
}

// publish returns the rate at which the nats command stores n messages on a new stream.
func (b *bench) publish(ctx context.Context, n int, flags ...string) (float64, error) {
	args := append([]string{
		"js", "pub", "async", "--create", "--purge", "--size", strconv.Itoa(b.bytes),
		"--msgs", strconv.Itoa(n), "--batch", "256", "--maxbytes", "4GB", "--no-progress",
	}, flags...)
	if len(flags) == 0 {
		args = append(args, "bench")
	}
	return b.raw(ctx, args...)
}

// three returns the mean rate of three publishers with a stream each: the rate that disk and server allow for pairs that are
// stored three times.
func (b *bench) three(ctx context.Context, n int) (float64, error) {
	var rates [3]float64
	group, publishing := errgroup.WithContext(ctx)
	for i := range rates {
		group.Go(func() (err error) {
			rates[i], err = b.publish(publishing, n, "--stream", fmt.Sprintf("three%d", i), fmt.Sprintf("three%d", i))
			return err
		})
	}
	err := group.Wait()
	return (rates[0] + rates[1] + rates[2]) / 3, err
}

func (b *bench) scaling(ctx context.Context) error {
	const work = 50 * time.Millisecond
	c, err := b.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	fmt.Printf("one stage that takes %v a pair\n\n| workers | pairs/s | times one worker |\n|---:|---:|---:|\n", work)
	one := 0.0
	for _, workers := range []int{1, 2, 4, 8, 16} {
		name, n := fmt.Sprintf("s%d", workers), b.count(100)*workers
		if err := b.prompts(ctx, c, name, n); err != nil {
			return err
		}
		took, err := b.through(ctx, stages(name, 1, work)[:1], workers, n)
		if err != nil {
			return err
		}
		rate := float64(n) / took.Seconds()
		if workers == 1 {
			one = rate
		}
		fmt.Printf("| %d | %.1f | %.1f |\n", workers, rate, rate/one)
	}
	return nil
}

// redelivery kills a worker that holds a batch and measures the time until another worker has processed it.
func (b *bench) redelivery(ctx context.Context) error {
	c, err := b.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	worst := 0.0
	for try := range 3 {
		name := fmt.Sprintf("r%d", try)
		if err := b.prompts(ctx, c, name, 32); err != nil {
			return err
		}
		self, err := os.Executable()
		if err != nil {
			return err
		}
		victim := exec.CommandContext(ctx, self, "hold")
		victim.Env = append(os.Environ(), childEnv+"="+b.url+" "+name)
		out, err := victim.StdoutPipe()
		if err != nil {
			return err
		}
		if err := victim.Start(); err != nil {
			return err
		}
		if _, err := out.Read(make([]byte, 1)); err != nil { // it holds a batch
			return fmt.Errorf("wait for the worker that will be killed: %w", err)
		}
		if err := victim.Process.Kill(); err != nil {
			return err
		}
		_ = victim.Wait()
		took, err := b.through(ctx, stages(name, 32, 0)[:1], 1, 32)
		if err != nil {
			return err
		}
		worst = math.Max(worst, took.Seconds())
		fmt.Printf("killed a worker that held 32 pairs: another worker had processed them %.1f s later\n", took.Seconds())
	}
	fmt.Printf("longest: %.1f s (ack_wait is %s)\n", worst, schemas.Default().Streams.AckWait)
	return nil
}

// childEnv names the environment variable that tells a child process the server's URL, the run's name and, for work, the number
// of its stage.
const childEnv = "LDALIGN_BENCH_CHILD"

// hold is the worker that redelivery kills: it takes a batch, prints a byte, and then never answers.
func hold(ctx context.Context) error {
	url, run, _ := strings.Cut(os.Getenv(childEnv), " ")
	b := bench{url: url}
	c, err := b.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	s := stages(run, 32, 0)[0]
	return c.RunStage(ctx, s.Stage, func(ctx context.Context, in []events.Message) []streams.Outcome {
		fmt.Println(len(in))
		<-ctx.Done()
		return make([]streams.Outcome, len(in))
	})
}

func (b *bench) count(own int) int {
	if b.pairs > 0 {
		return b.pairs
	}
	return own
}
