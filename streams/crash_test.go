package streams

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

const (
	// dirEnv and urlEnv tell a child where the streams are.
	dirEnv = "LDALIGN_STREAMS_DIR"
	urlEnv = "LDALIGN_STREAMS_URL"

	crashRun   = "crash"
	crashPairs = 80
)

// child runs in a child process, which the test kills. "stage" runs a stage against the test's server, and asks the test for each
// message. "up" also runs the server and publishes the stage's input, as a prompter that starts from the beginning does.
// "suicide" exits at one message in the middle of a batch. "full" simulates a full disk.
func child(role string) int {
	ctx := context.Background()
	if role == "full" {
		return fillDisk(ctx)
	}
	log := zerolog.New(os.Stderr)
	options := Options{Dir: os.Getenv(dirEnv), URL: os.Getenv(urlEnv), Limits: durable, Log: log}
	work := Process(func(ctx context.Context, in []events.Message) []Outcome {
		for range in { // so that the test can kill it in the middle of a batch
			_, err := os.Stdout.WriteString(".")
			if err == nil {
				_, err = os.Stdin.Read(make([]byte, 1))
			}
			if err != nil {
				os.Exit(1) // the test has ended
			}
		}
		return answer(ctx, in)
	})
	if role == "suicide" {
		options.Limits.MaxDeliver = 1
		work = func(ctx context.Context, in []events.Message) []Outcome {
			for _, m := range in {
				if m.(*events.Prompt).GetPosition() == 5 {
					os.Exit(3)
				}
			}
			return answer(ctx, in)
		}
	}
	c, err := Open(ctx, options)
	if err == nil {
		err = c.Declare(ctx, crashRun, c.limits)
	}
	if err == nil && role == "up" {
		err = c.Publish(ctx, schemas.Prompts, promptList(crashRun, 0, crashPairs)...)
	}
	if err == nil {
		err = c.RunStage(ctx, generator(crashRun, 4), work)
	}
	log.Error().Err(err).Msg("child ended by itself")
	return 1
}

// fillDisk limits the size of files and publishes until the limit is reached. It exits with 0 when the error is as expected.
func fillDisk(ctx context.Context) int {
	log := zerolog.New(os.Stderr)
	signal.Ignore(unix.SIGXFSZ) // the write fails instead
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}); err != nil {
		log.Error().Err(err).Msg("setrlimit")
		return 1
	}
	c, err := Open(ctx, Options{Dir: os.Getenv(dirEnv), Limits: durable, Log: log})
	if err == nil {
		err = c.Declare(ctx, crashRun, c.limits)
	}
	for i := 0; err == nil && i < 100; i++ {
		p := prompt(crashRun, 0, i)
		p.Response = strings.Repeat("x", 100<<10)
		err = c.Publish(ctx, schemas.Prompts, p)
	}
	log.Info().Err(err).Msg("published until here")
	if !errors.Is(err, ErrStore) || !strings.Contains(err.Error(), "file too large") {
		return 1
	}
	if err := c.Close(); err != nil {
		log.Error().Err(err).Msg("close")
		return 1
	}
	return 0
}

// A full disk ends publishing with a clear error. With free space again, the store continues with what it holds.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := spawn(t, "full", dir, "").Wait(); err != nil {
		t.Fatalf("child: %v", err)
	}
	c := openIn(t, dir, durable)
	have := len(stored(t, c, schemas.Prompts, crashRun))
	if have == 0 || have > 10 {
		t.Errorf("%d prompts of 100 KiB in a store limited to 1 MiB", have)
	}
	publish(t, c, schemas.Prompts, promptList(crashRun, 0, have+1)...)
	if got := len(stored(t, c, schemas.Prompts, crashRun)); got != have+1 {
		t.Errorf("%d prompts, want %d", got, have+1)
	}
}

// spawn starts a child process.
func spawn(t *testing.T, role, dir, url string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(testContext(t), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+role, dirEnv+"="+dir, urlEnv+"="+url)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	asked, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	permit, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { // until the child has ended
		for {
			_, err := asked.Read(make([]byte, 1))
			if err == nil {
				time.Sleep(5 * time.Millisecond)
				_, err = permit.Write([]byte("."))
			}
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("child %s:\n%s", role, stderr.String())
		}
	})
	return cmd
}

// serve starts a server for a test, which other processes can reach.
func serve(t *testing.T, dir, listen string) *embedded {
	t.Helper()
	server, err := startEmbedded(Options{Dir: dir, Listen: listen, Limits: durable.withDefaults(), Log: testLog(t)}, false)
	if err != nil {
		t.Fatal(err)
	}
	return server
}

// dial opens the streams of a server in another process.
func dial(t *testing.T, url string) *Conn {
	t.Helper()
	c, err := Open(testContext(t), Options{URL: url, Limits: durable, Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// exactlyOnce checks that the log holds each of n pairs once.
func exactlyOnce(t *testing.T, c *Conn, n int) {
	t.Helper()
	got := idsOf(stored(t, c, schemas.Pairs, crashRun))
	var want []string
	for _, m := range promptList(crashRun, 0, n) {
		want = append(want, m.ID())
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pairs in the log (-want +got):\n%s", diff)
	}
	if letters := stored(t, c, schemas.DeadLetters, crashRun); len(letters) != 0 {
		t.Errorf("%d dead letters, want none", len(letters))
	}
}

// Workers are killed in the middle of their work, again and again.
func TestKilledWorkersLoseNothing(t *testing.T) {
	server := serve(t, t.TempDir(), "127.0.0.1:0")
	t.Cleanup(server.stop)
	c := dial(t, server.address.URL)
	if err := c.Declare(testContext(t), crashRun, c.limits); err != nil {
		t.Fatal(err)
	}
	publish(t, c, schemas.Prompts, promptList(crashRun, 0, crashPairs)...)
	random := rand.New(rand.NewPCG(1, 2))
	rounds := 0
	for have := 0; have < crashPairs*3/4; rounds++ {
		worker := spawn(t, "stage", "", server.address.URL)
		await(t, c, schemas.Pairs, crashRun, have+1+random.IntN(12))
		worker.Process.Kill()
		worker.Wait()
		have = len(stored(t, c, schemas.Pairs, crashRun))
	}
	if rounds < 3 {
		t.Errorf("killed %d times only", rounds)
	}
	start(t, c, generator(crashRun, 4), answer)
	await(t, c, schemas.Pairs, crashRun, crashPairs)
	settled(t, c, generator(crashRun, 4))
	exactlyOnce(t, c, crashPairs)
}

// The killed process also runs the server.
func TestKilledServerLosesNothing(t *testing.T) {
	dir := t.TempDir()
	if err := openOnce(t, dir); err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(3, 4))
	rounds := 0
	for have := 0; have < crashPairs*3/4; rounds++ {
		up := spawn(t, "up", dir, "")
		for {
			// Before the child has locked the folder, this process would find it unlocked.
			if _, err := readAddress(dir); err == nil {
				break
			}
			if !pause(testContext(t), time.Millisecond) {
				t.Fatal("the child does not start")
			}
		}
		watcher, err := Attach(testContext(t), dir, Options{Limits: durable, Log: testLog(t)})
		if err != nil {
			t.Fatal(err)
		}
		got := await(t, watcher, schemas.Pairs, crashRun, have+1+random.IntN(12))
		up.Process.Kill()
		up.Wait()
		watcher.Close()
		have = len(got)
		if err := os.Remove(dir + "/" + addressFile); err != nil { // left by the killed process
			t.Fatal(err)
		}
	}
	c := openIn(t, dir, durable)
	publish(t, c, schemas.Prompts, promptList(crashRun, 0, crashPairs)...)
	if rounds < 3 {
		t.Errorf("killed %d times only", rounds)
	}
	start(t, c, generator(crashRun, 4), answer)
	await(t, c, schemas.Pairs, crashRun, crashPairs)
	settled(t, c, generator(crashRun, 4))
	exactlyOnce(t, c, crashPairs)
	if got := len(stored(t, c, schemas.Prompts, crashRun)); got != crashPairs {
		t.Errorf("%d prompts, want %d", got, crashPairs)
	}
}

// openOnce creates a store with declared streams.
func openOnce(t *testing.T, dir string) error {
	c, err := Open(testContext(t), Options{Dir: dir, Limits: durable, Log: testLog(t)})
	if err != nil {
		return err
	}
	if err := c.Declare(testContext(t), crashRun, c.limits); err != nil {
		return err
	}
	return c.Close()
}

// A message that kills every process that works on it becomes a dead letter. No other message does.
func TestMessageThatKillsIsPoison(t *testing.T) {
	server := serve(t, t.TempDir(), "127.0.0.1:0")
	t.Cleanup(server.stop)
	c := dial(t, server.address.URL)
	if err := c.Declare(testContext(t), crashRun, c.limits); err != nil {
		t.Fatal(err)
	}
	c.limits.MaxDeliver = 1 // the same as in the children, so that few of them have to die
	const n = 8
	publish(t, c, schemas.Prompts, promptList(crashRun, 0, n)...)
	for range 1 + deadlyFactor {
		worker := spawn(t, "suicide", "", server.address.URL)
		if exit := (*exec.ExitError)(nil); !errors.As(worker.Wait(), &exit) || exit.ExitCode() != 3 {
			t.Fatal("the message did not kill its worker")
		}
	}
	start(t, c, generator(crashRun, 4), answer)
	await(t, c, schemas.Pairs, crashRun, n-1)
	settled(t, c, generator(crashRun, 4))
	var letters []*events.DeadLetter
	for _, r := range stored(t, c, schemas.DeadLetters, crashRun) {
		letters = append(letters, r.Message.(*events.DeadLetter))
	}
	if len(letters) != 1 || letters[0].GetPairId() != prompt(crashRun, 0, 5).GetPairId() {
		t.Fatalf("dead letters %v, want the one of the message at fault", letters)
	}
	if letters[0].GetReason() != schemas.ReasonPoison || !strings.Contains(letters[0].GetError(), "died") {
		t.Errorf("letter: %s: %s", letters[0].GetReason(), letters[0].GetError())
	}
}

// restartable starts a server on a port that is still free when the server restarts: one below the range for outgoing connections
// (from 32768 on Linux), from which its own clients get their ports.
func restartable(t *testing.T, dir string) (server *embedded, listen string) {
	t.Helper()
	var err error
	for range 100 {
		listen = net.JoinHostPort("127.0.0.1", strconv.Itoa(20000+rand.IntN(12000)))
		o := Options{Dir: dir, Listen: listen, Limits: durable.withDefaults(), Log: testLog(t)}
		if server, err = startEmbedded(o, false); err == nil {
			return server, listen
		}
	}
	t.Fatal(err)
	return nil, ""
}

// The server is stopped and restarted three times while a publisher, a stage and readers work.
func TestServerRestarts(t *testing.T) {
	dir := t.TempDir()
	server, listen := restartable(t, dir)
	t.Cleanup(func() { server.stop() })
	c := dial(t, server.address.URL)
	ctx := testContext(t)
	if err := c.Declare(ctx, "r", c.limits); err != nil {
		t.Fatal(err)
	}
	start(t, c, generator(crashRun, 4), answer)
	published := make(chan error, 1)
	go func() {
		for i, m := range promptList(crashRun, 0, crashPairs) {
			if err := c.Publish(ctx, schemas.Prompts, m); err != nil {
				published <- fmt.Errorf("prompt %d: %w", i, err)
				return
			}
		}
		published <- c.Publish(ctx, schemas.Control, closedAt(crashRun, 0, crashPairs))
	}()
	quarters := make(chan struct{})
	collected := make(chan error, 1)
	go func() {
		next := crashPairs / 4
		seen := map[string]bool{}
		collected <- c.Follow(ctx, schemas.Pairs, crashRun, 0, 0, func(r Received) error {
			if seen[r.Message.ID()] = true; len(seen) >= next && next < crashPairs {
				next += crashPairs / 4
				quarters <- struct{}{}
			}
			if len(seen) == crashPairs {
				return ErrStop
			}
			return nil
		})
	}()
	for range 3 {
		select {
		case <-quarters:
		case <-ctx.Done():
			t.Fatal("no progress")
		}
		server.stop()
		server = serve(t, dir, listen)
	}
	if err := <-published; err != nil {
		t.Error(err)
	}
	if err := <-collected; err != nil {
		t.Error(err)
	}
	settled(t, c, generator(crashRun, 4))
	exactlyOnce(t, c, crashPairs)
}
