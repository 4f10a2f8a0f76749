package streams

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	// shortTTL is the ttl of leases that shall expire.
	shortTTL = 400 * time.Millisecond
	// testTTL is the ttl of leases that are renewed, long enough for a process on a busy machine. Another process sees the
	// renewal after a quarter of it.
	testTTL = 4 * time.Second
)

func TestLeaseHasOneHolder(t *testing.T) {
	c := openQuick(t)
	ctx := testContext(t)
	first, err := c.AcquireLease(ctx, "r", "first", testTTL)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.AcquireLease(ctx, "r", "second", testTTL)
	var held *ErrHeld
	if !errors.As(err, &held) || held.Holder != "first" || held.Run != "r" {
		t.Errorf("got %v, want ErrHeld by first", err)
	}
	other, err := c.AcquireLease(ctx, "another-run", "second", testTTL)
	if err != nil {
		t.Fatalf("another run's lease: %v", err)
	}
	if err := other.Release(); err != nil {
		t.Error(err)
	}
	if err := first.Release(); err != nil {
		t.Error(err)
	}
	second, err := c.AcquireLease(ctx, "r", "second", testTTL)
	if err != nil {
		t.Fatalf("after the release: %v", err)
	}
	if err := second.Release(); err != nil {
		t.Error(err)
	}
}

// Of many processes that want a lease, one gets it, and the next one when the first releases it.
func TestLeaseRace(t *testing.T) {
	c := openQuick(t)
	ctx := testContext(t)
	var mu sync.Mutex
	var won []*Lease
	var group sync.WaitGroup
	for range 5 {
		group.Go(func() {
			l, err := c.AcquireLease(ctx, "r", "one of many", testTTL)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won = append(won, l)
			} else if !errors.As(err, new(*ErrHeld)) {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if len(won) != 1 {
		t.Errorf("%d holders, want 1", len(won))
	}
	for _, l := range won {
		if err := l.Release(); err != nil {
			t.Error(err)
		}
	}
}

// The lease of a holder that stops renewing is taken over after its ttl, and the holder learns that it is lost.
func TestSilentHolderIsTakenOver(t *testing.T) {
	c := openQuick(t)
	ctx := testContext(t)
	silent, err := c.AcquireLease(ctx, "r", "silent", shortTTL)
	if err != nil {
		t.Fatal(err)
	}
	silent.cancel() // like a process that hangs: it holds the lease and does not renew it
	<-silent.done
	second, err := c.AcquireLease(ctx, "r", "second", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := second.Release(); err != nil {
			t.Error(err)
		}
	})
	if err := silent.renew(ctx, time.Second); err == nil {
		t.Error("the old holder renewed a lease that another has")
	}
	if err := silent.Release(); err == nil {
		t.Error("the old holder released a lease that another has")
	}
	select {
	case <-second.Lost():
		t.Error("the new holder lost its lease to the old one")
	default:
	}
}

// A lease may be released during a renewal, which is stored while its answer is lost.
func TestReleaseDuringARenewal(t *testing.T) {
	c := openQuick(t)
	ctx := testContext(t)
	l, err := c.AcquireLease(ctx, "r", "first", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	value, err := l.claim.encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.kv.Update(ctx, "r", value, l.revision); err != nil {
		t.Fatal(err)
	}
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
	next, err := c.AcquireLease(ctx, "r", "next", time.Hour) // at once: the ttl is an hour
	if err != nil {
		t.Fatal(err)
	}
	if err := next.Release(); err != nil {
		t.Error(err)
	}
}

// A holder that cannot reach the server doubts its lease before another process may take it over. It has the lease again when the
// server is back, unless another process has taken it over.
func TestLeaseOutlivesAnOutage(t *testing.T) {
	dir := t.TempDir()
	server := serve(t, dir, "127.0.0.1:0")
	at := strings.TrimPrefix(server.address.URL, "nats://")
	c := dial(t, server.address.URL)
	l, err := c.AcquireLease(testContext(t), "r", "holder", shortTTL)
	if err != nil {
		server.stop()
		t.Fatal(err)
	}
	if err := l.Confirm(testContext(t)); err != nil || l.Doubtful() {
		t.Errorf("just acquired: doubtful: %v, %v", l.Doubtful(), err)
	}
	server.stop()
	for !l.Doubtful() {
		pause(testContext(t), time.Millisecond)
	}
	over, cancel := context.WithTimeout(t.Context(), 2*shortTTL)
	defer cancel()
	if err := l.Confirm(over); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without the server: %v", err)
	}
	server = serve(t, dir, at)
	t.Cleanup(server.stop)
	if err := l.Confirm(testContext(t)); err != nil {
		t.Errorf("with the server again: %v", err)
	}
	other, err := claim{ID: "another", Run: "r", Holder: "another", TTL: time.Hour}.encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.kv.Put(testContext(t), "r", other); err != nil {
		t.Fatal(err)
	}
	<-l.Lost()
	if err := l.Confirm(testContext(t)); !errors.Is(err, ErrLeaseTaken) {
		t.Errorf("after another has taken it: %v", err)
	}
	if err := l.Release(); err != nil {
		t.Error(err)
	}
}

// After a crash of the process with the server and the lease, the next start takes the lease at once, with a ttl of an hour.
func TestLeaseOfADeadProcessIsFreeAtOnce(t *testing.T) {
	dir := t.TempDir()
	for _, listen := range []string{"", "127.0.0.1:0"} {
		c, err := Open(testContext(t), Options{Dir: dir, Listen: listen, Limits: quick, Log: testLog(t)})
		if err != nil {
			t.Fatal(err)
		}
		l, err := c.AcquireLease(testContext(t), "r", "dead", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		l.cancel() // without a release
		<-l.done
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	c := openIn(t, dir, quick)
	l, err := c.AcquireLease(testContext(t), "r", "next", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Release(); err != nil {
		t.Error(err)
	}
}

func TestOrphaned(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	before, after := started.Add(-time.Minute), started.Add(time.Minute)
	random := &Conn{server: &embedded{started: started, address: address{Token: "x"}}}
	chosen := &Conn{server: &embedded{started: started}}
	here := claim{Host: host, PID: os.Getppid()}
	for name, test := range map[string]struct {
		c       *Conn
		claim   claim
		renewed time.Time
		want    bool
	}{
		"a server elsewhere":                    {&Conn{}, here, before, false},
		"renewed since the start":               {random, here, after, false},
		"nobody comes back to a random port":    {random, here, before, true},
		"a living process on a chosen port":     {chosen, here, before, false},
		"a dead process on a chosen port":       {chosen, claim{Host: host, PID: 1 << 30}, before, true},
		"another machine's on a chosen port":    {chosen, claim{Host: "elsewhere", PID: 1 << 30}, before, false},
		"an earlier process with this one's id": {chosen, claim{Host: host, PID: os.Getpid()}, before, true},
	} {
		if got := test.c.orphaned(test.claim, test.renewed); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}
