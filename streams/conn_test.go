package streams

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

func TestSecondOpenIsRefused(t *testing.T) {
	dir := t.TempDir()
	c := openIn(t, dir, quick)
	_, err := Open(testContext(t), Options{Dir: dir})
	if !errors.Is(err, ErrInUse) || errors.Is(err, ErrBeingRead) || !strings.Contains(err.Error(), c.URL()) {
		t.Errorf("got %v, want ErrInUse naming %s", err, c.URL())
	}
}

func TestAttach(t *testing.T) {
	dir := t.TempDir()
	if _, err := Attach(testContext(t), dir, Options{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a folder without streams: got %v, want ErrNotFound", err)
	}
	owner, err := Open(testContext(t), Options{Dir: dir, Limits: quick, Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Declare(testContext(t), "r", owner.limits); err != nil {
		t.Fatal(err)
	}
	publish(t, owner, schemas.Prompts, promptList("r", 0, 3)...)

	guest, err := Attach(testContext(t), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := len(stored(t, guest, schemas.Prompts, "r")); got != 3 {
		t.Errorf("beside the owner: %d prompts, want 3", got)
	}
	if err := errors.Join(guest.Close(), owner.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, addressFile)); err == nil {
		t.Error("the address outlives its server")
	}

	alone, err := Attach(testContext(t), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(testContext(t), Options{Dir: dir}); !errors.Is(err, ErrBeingRead) || !errors.Is(err, ErrInUse) {
		t.Errorf("beside one that reads: got %v, want ErrBeingRead", err)
	}
	if got := len(stored(t, alone, schemas.Prompts, "r")); got != 3 {
		t.Errorf("after the owner: %d prompts, want 3", got)
	}
	if err := alone.Close(); err != nil {
		t.Fatal(err)
	}
}

// The default address is for this user only: nobody can connect without the token from the folder.
func TestDefaultAddressAsksForAToken(t *testing.T) {
	c := openQuick(t)
	stranger, err := Open(testContext(t), Options{URL: c.URL()})
	if err == nil {
		stranger.Close()
		t.Fatal("connected without a token")
	}
	if info, err := os.Stat(filepath.Join(c.server.dir, addressFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s has mode %v (%v), want 0600", addressFile, info.Mode(), err)
	}
}

func TestOpenErrorsAreClear(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		options Options
		want    []string
	}{
		"port in use":           {Options{Dir: t.TempDir(), Listen: taken.Addr().String()}, []string{"address already in use"}},
		"not a folder":          {Options{Dir: file}, []string{file, "not a directory"}},
		"no place":              {Options{}, []string{"neither"}},
		"bad listen":            {Options{Dir: t.TempDir(), Listen: "4222"}, []string{"4222", "host:port"}},
		"nobody there":          {Options{URL: "nats://127.0.0.1:1"}, []string{"nats://127.0.0.1:1"}},
		"bad limits":            {Options{Dir: t.TempDir(), Limits: Limits{Replicas: 2}}, []string{"replicas 2"}},
		"missing creds":         {Options{URL: "nats://127.0.0.1:1", Auth: Auth{Creds: "/nowhere"}}, []string{"nats://127.0.0.1:1", "/nowhere"}},
		"a password in the URL": {Options{URL: "nats://me:hunter2@127.0.0.1:1"}, []string{"nats://***@127.0.0.1:1"}},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Open(testContext(t), test.options)
			if err == nil {
				c.Close()
				t.Fatal("opened")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not name %q", err, want)
				}
			}
		})
	}
	// A failed start leaves the folder unlocked.
	dir := t.TempDir()
	if _, err := Open(testContext(t), Options{Dir: dir, Listen: taken.Addr().String()}); err == nil {
		t.Fatal("opened on a taken port")
	}
	openIn(t, dir, quick)
}

func TestServerVersion(t *testing.T) {
	for version, want := range map[string]bool{
		"2.10.0": false, "2.9.25": false, "2.15.2": true, "3.0.0-beta": true, "1.99.0": false, "": false, "x.y.z": false,
		"2.10.25": false, "2.10.26": true, "2.11.0": true, "2.10.27-RC.1": true, "2.10": false, "3": true,
	} {
		if got := atLeast(version, minServer); got != want {
			t.Errorf("%q: %v, want %v", version, got, want)
		}
	}
}

// A server that loses streams is refused with its version.
func TestOldServerIsRefused(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, `INFO {"server_id":"old","version":"2.10.22","headers":true,"max_payload":1048576}`+"\r\n")
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			if lines.Text() == "PING" {
				fmt.Fprint(conn, "PONG\r\n")
			}
		}
	})
	t.Cleanup(func() { listener.Close(); all.Wait() })
	c, err := Open(testContext(t), Options{URL: "nats://" + listener.Addr().String()})
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, ErrServerTooOld) || !strings.Contains(err.Error(), "runs 2.10.22, want 2.10.26 or newer") {
		t.Errorf("got %v", err)
	}
}

func TestParseLimits(t *testing.T) {
	got, err := ParseLimits(schemas.StreamsSpec{
		MaxAge: "30d", MaxBytes: "2GiB", AckWait: "45s", MaxDeliver: 7, Replicas: 3, Sync: "2m", StuckAfter: "1h",
	})
	want := Limits{
		MaxAge: 720 * time.Hour, MaxBytes: 2 << 30, AckWait: 45 * time.Second, MaxDeliver: 7, Replicas: 3,
		Sync: 2 * time.Minute, StuckAfter: time.Hour, Retry: time.Second,
	}
	if err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if got, err := ParseLimits(schemas.StreamsSpec{Sync: "always"}); err != nil || got != (Limits{}).withDefaults() {
		t.Errorf("defaults: got %+v, %v", got, err)
	}
	for key, spec := range map[string]schemas.StreamsSpec{
		"streams.max_age":     {MaxAge: "long"},
		"streams.ack_wait":    {AckWait: "-3s"},
		"streams.stuck_after": {StuckAfter: "0s"},
		"streams.max_bytes":   {MaxBytes: "8 gigabytes"},
		"streams.sync":        {Sync: "never"},
		"max_bytes":           {MaxBytes: "99999999999TiB"},
		"max_deliver":         {MaxDeliver: -1},
		"replicas":            {Replicas: 4},
	} {
		if _, err := ParseLimits(spec); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: got %v", key, err)
		}
	}
}

func TestTopology(t *testing.T) {
	c := openQuick(t)
	ctx := testContext(t)
	if err := c.Declare(ctx, "r", c.limits); err != nil {
		t.Errorf("the second time: %v", err)
	}
	for _, kind := range schemas.Kinds() {
		stream, err := c.js.Stream(ctx, StreamName(kind, "r"))
		if err != nil {
			t.Fatal(err)
		}
		have := stream.CachedInfo().Config
		if diff := differences(have, c.limits.stream(kind, "r")); len(diff) > 0 {
			t.Errorf("%s: %v", kind, diff)
		}
		if have.Duplicates >= have.MaxAge || have.MaxBytes <= 0 {
			t.Errorf("%s: duplicates %v, max age %v, max bytes %d", kind, have.Duplicates, have.MaxAge, have.MaxBytes)
		}
	}

	// Declare raises limits and never lowers them, because that would discard messages.
	c.limits.MaxAge *= 2
	if err := c.Declare(ctx, "r", c.limits); err != nil {
		t.Fatal(err)
	}
	high := c.limits.MaxAge
	c.limits.MaxAge /= 4
	if err := c.Declare(ctx, "r", c.limits); err != nil {
		t.Fatal(err)
	}
	stream, err := c.js.Stream(ctx, StreamName(schemas.Pairs, "r"))
	if err != nil {
		t.Fatal(err)
	}
	if got := stream.CachedInfo().Config.MaxAge; got != high {
		t.Errorf("max age %v, want %v", got, high)
	}
}

func TestTopologyMismatch(t *testing.T) {
	c := openQuick(t)
	ctx := testContext(t)
	if err := c.js.DeleteStream(ctx, StreamName(schemas.Scored, "r")); err != nil {
		t.Fatal(err)
	}
	other := c.limits.stream(schemas.Scored, "r")
	other.MaxMsgs, other.NoAck = 100, true
	if _, err := c.js.CreateStream(ctx, other); err != nil {
		t.Fatal(err)
	}
	err := c.Declare(ctx, "r", c.limits)
	if !errors.Is(err, ErrTopology) {
		t.Fatalf("got %v, want ErrTopology", err)
	}
	for _, want := range []string{"LDALIGN_r_SCORED", "max messages is 100", "no_ack is true"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
	}
}

func TestPublishStoresOnce(t *testing.T) {
	dir := t.TempDir()
	c := openIn(t, dir, quick)
	const n = 2*window + 3
	publish(t, c, schemas.Prompts, promptList("r", 0, n)...)
	publish(t, c, schemas.Prompts, promptList("r", 0, n)...)
	if got := len(stored(t, c, schemas.Prompts, "r")); got != n {
		t.Errorf("%d prompts, want %d", got, n)
	}
}

// The streams remember ids over a restart.
func TestPublishStoresOnceOverARestart(t *testing.T) {
	dir := t.TempDir()
	c, err := Open(testContext(t), Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Declare(testContext(t), "r", c.limits); err != nil {
		t.Fatal(err)
	}
	publish(t, c, schemas.Prompts, promptList("r", 0, 5)...)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = openIn(t, dir, quick)
	publish(t, c, schemas.Prompts, promptList("r", 0, 7)...)
	if got := len(stored(t, c, schemas.Prompts, "r")); got != 7 {
		t.Errorf("%d prompts, want 7", got)
	}
}

// Opening the folder of a killed process logs no warning: the server's messages about an old index are logged at debug level.
func TestOpenAfterAKillIsQuiet(t *testing.T) {
	dir, killed := t.TempDir(), t.TempDir()
	c, err := Open(testContext(t), Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Declare(testContext(t), "r", c.limits); err != nil {
		t.Fatal(err)
	}
	publish(t, c, schemas.Prompts, promptList("r", 0, 5)...)
	if err := c.Close(); err != nil { // writes the index
		t.Fatal(err)
	}
	c = openIn(t, dir, quick)
	publish(t, c, schemas.Prompts, promptList("r", 0, 7)...)
	if err := os.CopyFS(killed, os.DirFS(dir)); err != nil { // as a kill would leave it
		t.Fatal(err)
	}
	var log bytes.Buffer
	after, err := Open(testContext(t), Options{Dir: killed, Log: zerolog.New(zerolog.SyncWriter(&log))})
	if err != nil {
		t.Fatal(err)
	}
	if got := len(stored(t, after, schemas.Prompts, "r")); got != 7 {
		t.Errorf("%d prompts, want 7", got)
	}
	if err := after.Close(); err != nil {
		t.Fatal(err)
	}
	if text := log.String(); !strings.Contains(text, "Stream state outdated") || strings.Contains(text, `"level":"warn"`) {
		t.Errorf("the log:\n%s", text)
	}
}

func TestPublishRefuses(t *testing.T) {
	c := openQuick(t)
	large := prompt("r", 0, 0)
	large.Response = strings.Repeat("x", MaxMessage)
	err := c.Publish(testContext(t), schemas.Prompts, prompt("r", 0, 1), large)
	if !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), large.GetPairId()) {
		t.Errorf("too large: got %v, want ErrTooLarge with the id", err)
	}
	unversioned, nameless, lost := prompt("r", 0, 0), prompt("r", 0, 0), prompt("no run", 0, 0)
	unversioned.Schema, nameless.PairId = 0, ""
	for name, err := range map[string]error{
		"no schema":    c.Publish(testContext(t), schemas.Prompts, unversioned),
		"no id":        c.Publish(testContext(t), schemas.Prompts, nameless),
		"no run":       c.Publish(testContext(t), schemas.Prompts, lost),
		"another kind": c.Publish(testContext(t), schemas.Pairs, prompt("r", 0, 0)),
		"no kind":      c.Publish(testContext(t), "guesses", prompt("r", 0, 0)),
		"nil":          c.Publish(testContext(t), schemas.Prompts, nil),
	} {
		if err == nil {
			t.Errorf("%s: published", name)
		}
	}
	if got := stored(t, c, schemas.Prompts, "r"); len(got) != 0 {
		t.Errorf("something was stored: %v", got)
	}
}

func TestPublishToAMissingStream(t *testing.T) {
	c, err := Open(testContext(t), Options{Dir: t.TempDir(), Limits: Limits{Retry: time.Microsecond}, Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	err = c.Publish(testContext(t), schemas.Prompts, prompt("r", 0, 0))
	if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "run r") {
		t.Errorf("got %v, want ErrNotFound that names the run", err)
	}
	// Nothing else that a worker does before its run is declared creates one of the run's streams.
	if err := c.RunStage(testContext(t), generator("r", 1), answer); !errors.Is(err, ErrNotFound) {
		t.Errorf("a stage: got %v, want ErrNotFound", err)
	}
	if err := c.Follow(testContext(t), schemas.Control, "r", 0, 0, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("a reader: got %v, want ErrNotFound", err)
	}
	if runs, err := c.Runs(testContext(t)); err != nil || len(runs) != 0 {
		t.Errorf("runs %v, %v", runs, err)
	}
}

func TestRuns(t *testing.T) {
	c := openQuick(t)
	publish(t, c, schemas.Prompts, prompt("b", 0, 0), prompt("b", 1, 0), prompt("a-1", 0, 0))
	publish(t, c, schemas.Control, closedAt("c", 0, 1))
	runs, err := c.Runs(testContext(t))
	if want := []string{"a-1", "b", "c", "r"}; err != nil || !slices.Equal(runs, want) {
		t.Errorf("got %v, %v, want %v", runs, err, want)
	}
}

// When a server restarts without its store, stages and readers end with an error that says what is missing and what to do.
func TestServerWithoutItsStore(t *testing.T) {
	c := openQuick(t)
	publish(t, c, schemas.Prompts, prompt("r", 0, 0))
	await(t, c, schemas.Prompts, "r", 1)
	ended := make(chan error, 2)
	working := make(chan struct{}, 1)
	go func() {
		ended <- c.RunStage(t.Context(), generator("r", 1), func(ctx context.Context, in []events.Message) []Outcome {
			working <- struct{}{}
			return answer(ctx, in)
		})
	}()
	following := make(chan struct{}, 1)
	go func() {
		ended <- c.Follow(t.Context(), schemas.Prompts, "r", 0, 0, func(Received) error { following <- struct{}{}; return nil })
	}()
	<-working
	<-following
	if err := c.js.DeleteStream(testContext(t), StreamName(schemas.Prompts, "r")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-ended; !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "no streams of run r") ||
			!strings.Contains(err.Error(), "ldalign restore") {
			t.Errorf("got %v", err)
		}
	}
}

// Streams with a message for every pair remember ids for a short time. Declare updates streams of older programs.
func TestDedupWindow(t *testing.T) {
	ctx := testContext(t)
	c := openQuick(t)
	is := func(kind schemas.Kind, want time.Duration) {
		t.Helper()
		stream, err := c.js.Stream(ctx, StreamName(kind, "r"))
		if err != nil {
			t.Fatal(err)
		}
		if got := stream.CachedInfo().Config.Duplicates; got != want {
			t.Errorf("%s: %v, want %v", kind, got, want)
		}
	}
	old := c.limits.stream(schemas.Prompts, "r")
	old.Duplicates = otherWindow
	if _, err := c.js.UpdateStream(ctx, old); err != nil {
		t.Fatal(err)
	}
	if err := c.Declare(ctx, "r", c.limits); err != nil {
		t.Fatal(err)
	}
	for _, kind := range schemas.PairKinds() {
		is(kind, pairWindow)
	}
	for _, kind := range []schemas.Kind{schemas.Checkpoints, schemas.DeadLetters, schemas.Results, schemas.Control} {
		is(kind, otherWindow)
	}
	small := openIn(t, t.TempDir(), Limits{MaxAge: time.Minute})
	if got := small.limits.stream(schemas.Control, "r").Duplicates; got != 30*time.Second {
		t.Errorf("of messages that are kept for a minute: %v", got)
	}
	if _, err := Open(ctx, Options{Dir: t.TempDir(), Limits: Limits{DedupWindow: time.Millisecond}}); err == nil {
		t.Error("a window that no server takes is taken")
	}
}

// The embedded server listens beyond loopback only if it is told to: it has neither TLS nor passwords.
func TestListenBeyondLoopback(t *testing.T) {
	for address, exposed := range map[string]bool{
		"127.0.0.1:0": false, "127.0.0.2:0": false, "localhost:0": false,
		":0": true, "0.0.0.0:0": true, "[::]:0": true, "192.0.2.1:0": true, "example.org:0": true,
	} {
		c, err := Open(testContext(t), Options{Dir: t.TempDir(), Listen: address, Limits: quick, Log: testLog(t)})
		if errors.Is(err, ErrExposed) != exposed || !exposed && err != nil {
			t.Errorf("%s: %v, exposed %v", address, err, exposed)
		}
		if err == nil {
			err = c.Close()
		}
		if !exposed && err != nil {
			t.Error(err)
		}
	}
	c, err := Open(testContext(t), Options{Dir: t.TempDir(), Listen: "0.0.0.0:0", Insecure: true, Limits: quick, Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
