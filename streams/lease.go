package streams

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// leaseBucket is the KV bucket that holds one key per leased run.
const leaseBucket = "ldalign-leases"

// ErrHeld says that another holder has the lease and is alive.
type ErrHeld struct {
	Run    string
	Holder string
	Since  time.Time
}

// Error names the run and the holder.
func (e *ErrHeld) Error() string {
	return fmt.Sprintf("streams: run %s is held by %s since %s: stop it first",
		e.Run, e.Holder, e.Since.Format(time.RFC3339))
}

// ErrLeaseTaken: another process has taken over the lease.
var ErrLeaseTaken = errors.New("streams: another process has taken over the lease")

// Lease makes its holder the only trainer of a run. It keeps two trainers from wasting work. It is not what prevents conflicting
// checkpoints: a manifest can be created only once.
//
// While the server cannot be reached the lease becomes doubtful: another process may take it over. It is lost only when another
// process has done so.
type Lease struct {
	conn   *Conn
	kv     jetstream.KeyValue
	claim  claim
	lost   chan struct{}
	cancel context.CancelFunc
	done   chan struct{}
	// revision belongs to the renewing goroutine until done is closed.
	revision uint64

	mu      sync.Mutex
	renewed time.Time     // when the last renewal that was stored was sent
	renewal chan struct{} // closed at the next renewal
}

// claim is the value under the lease's key.
type claim struct {
	ID     string        `json:"id"` // of this lease, to tell its own writes from another's
	Run    string        `json:"run"`
	Holder string        `json:"holder"`
	Host   string        `json:"host"`
	PID    int           `json:"pid"`
	Since  time.Time     `json:"since"`
	TTL    time.Duration `json:"ttl"`
}

// AcquireLease takes the lease of a run for holder and renews it until Release or until another process takes it over. When
// another holder has the lease, AcquireLease waits up to that lease's ttl, and logs it. If the other holder renews the lease in
// that time, it returns *ErrHeld; otherwise it takes the lease over. It takes over the lease of a process that died with the
// embedded server at once.
//
// Each process measures the ttl on its own clock, from the moment it first sees the claim.
func (c *Conn) AcquireLease(ctx context.Context, run, holder string, ttl time.Duration) (*Lease, error) {
	kv, err := c.bucket(ctx, leaseBucket)
	if err != nil {
		return nil, fmt.Errorf("streams: lease of run %s: %w", run, err)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	l := &Lease{
		conn: c, kv: kv, lost: make(chan struct{}), done: make(chan struct{}), renewal: make(chan struct{}), claim: claim{
			ID: rand.Text(), Run: run, Holder: holder, Host: host, PID: os.Getpid(), Since: time.Now().UTC(), TTL: ttl,
		},
	}
	if err := l.acquire(ctx); err != nil {
		return nil, err
	}
	renewing, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	go l.keep(renewing)
	return l, nil
}

func (l *Lease) acquire(ctx context.Context) error {
	value, err := l.claim.encode()
	if err != nil {
		return err
	}
	c, run, what := l.conn, l.claim.Run, "acquire the lease of run "+l.claim.Run
	failed := func(err error) error { return fmt.Errorf("streams: lease of run %s: %w", run, err) }
	var seen uint64 // revision of the other holder's claim
	var deadline time.Time
	for {
		sent := time.Now()
		revision, err := ask(ctx, c, what, func(ctx context.Context) (uint64, error) { return l.kv.Create(ctx, run, value) })
		if err == nil {
			l.got(revision, sent)
			return nil
		}
		if meaningOf(err) != conflict {
			return failed(err)
		}
		entry, err := ask(ctx, c, what, func(ctx context.Context) (jetstream.KeyValueEntry, error) { return l.kv.Get(ctx, run) })
		if errors.Is(err, jetstream.ErrKeyNotFound) { // released meanwhile, or replicas have not agreed on it yet
			if !pause(ctx, inProcessPause) {
				return ctx.Err()
			}
			continue
		}
		if err != nil {
			return failed(err)
		}
		var other claim
		if err := json.Unmarshal(entry.Value(), &other); err != nil {
			return failed(fmt.Errorf("the stored value is not a lease: %w", err))
		}
		if other.ID == l.claim.ID { // an earlier try was stored, but its answer was lost
			l.got(entry.Revision(), sent)
			return nil
		}
		if seen != 0 && seen != entry.Revision() {
			return &ErrHeld{Run: run, Holder: other.Holder, Since: other.Since}
		}
		if seen == 0 {
			seen, deadline = entry.Revision(), time.Now().Add(other.TTL)
			if c.orphaned(other, entry.Created()) {
				deadline = time.Now()
			} else {
				c.log.Info().Str("run", run).Str("holder", other.Holder).Dur("wait", other.TTL).
					Msg("the run is leased: waiting to see whether its holder is alive")
			}
		}
		if !time.Now().Before(deadline) {
			sent := time.Now()
			revision, err := ask(ctx, c, what, func(ctx context.Context) (uint64, error) {
				return l.kv.Update(ctx, run, value, entry.Revision())
			})
			if err == nil {
				c.log.Warn().Str("run", run).Str("holder", other.Holder).Msg("took over the lease of a dead holder")
				l.got(revision, sent)
				return nil
			}
			if meaningOf(err) != conflict {
				return failed(err)
			}
			continue
		}
		if !pause(ctx, min(time.Until(deadline), other.TTL/10)) {
			return ctx.Err()
		}
	}
}

// got records that the server has stored this lease's claim, which was sent at a time.
func (l *Lease) got(revision uint64, sent time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.revision, l.renewed = revision, sent
	close(l.renewal)
	l.renewal = make(chan struct{})
}

// orphaned reports whether a claim's holder cannot be alive. It can tell this only with the embedded server: a claim older than
// the server belongs to a client of an earlier server on the same folder. No client of a server on a random port can reconnect to
// this one. A client of a server on a chosen port can, unless its process has ended.
func (c *Conn) orphaned(other claim, renewed time.Time) bool {
	if c.server == nil || !renewed.Before(c.server.started) {
		return false
	}
	if c.server.address.Token != "" || other.PID == os.Getpid() {
		return true
	}
	host, err := os.Hostname()
	return err == nil && host == other.Host && gone(other.PID)
}

// gone reports whether there is no process of this number.
func gone(pid int) bool {
	process, err := os.FindProcess(pid)
	if err != nil { // on Windows; other systems find every number
		return true
	}
	return errors.Is(errors.Join(process.Signal(syscall.Signal(0)), process.Release()), os.ErrProcessDone)
}

// beat is the time between two renewals.
func (l *Lease) beat() time.Duration { return l.claim.TTL / 4 }

// keep renews the lease until ctx ends or another process has taken it over.
func (l *Lease) keep(ctx context.Context) {
	defer close(l.done)
	o := outage{conn: l.conn, what: "renew the lease of run " + l.claim.Run}
	defer o.over()
	ticker := time.NewTicker(l.beat())
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		switch err := l.renew(ctx, l.beat()); {
		case err == nil:
			o.over()
		case ctx.Err() != nil:
			return
		case errors.Is(err, ErrLeaseTaken):
			close(l.lost)
			return
		case l.Doubtful():
			o.failed(err)
		}
	}
}

// Doubtful reports whether the lease was not renewed in time. Another process may then take it over, or has done so.
func (l *Lease) Doubtful() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Since(l.renewed) >= 3*l.beat()
}

// Confirm returns nil when the lease is not doubtful. Otherwise it waits until the lease is renewed. It returns ErrLeaseTaken
// when another process has taken it over, and ctx's error when ctx ends first.
func (l *Lease) Confirm(ctx context.Context) error {
	for {
		l.mu.Lock()
		renewal := l.renewal
		l.mu.Unlock()
		select {
		case <-l.lost:
			return fmt.Errorf("%w of run %s", ErrLeaseTaken, l.claim.Run)
		default:
		}
		if !l.Doubtful() {
			return nil
		}
		select {
		case <-renewal:
		case <-l.lost:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *Lease) renew(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	value, err := l.claim.encode()
	if err != nil {
		return err
	}
	sent := time.Now()
	var revision uint64
	if err := l.change(ctx, func() (err error) {
		revision, err = l.kv.Update(ctx, l.claim.Run, value, l.revision)
		return err
	}); err != nil {
		return err
	}
	l.got(revision, sent)
	return nil
}

// change calls do, which changes the key at l.revision. When the revision is outdated but the stored claim is this lease's, it
// reads the revision and calls do again: an earlier renewal was stored, but its answer was lost. do may fail again, while
// replicas have not agreed on the earlier renewal. It returns ErrLeaseTaken when the stored claim is not this lease's.
func (l *Lease) change(ctx context.Context, do func() error) error {
	err := do()
	if meaningOf(err) != conflict {
		return err
	}
	own, getErr := l.recall(ctx)
	switch {
	case getErr != nil:
		return getErr
	case !own:
		return ErrLeaseTaken
	}
	return do()
}

// recall reads the stored claim and reports whether it is this lease's. If so it updates l.revision.
func (l *Lease) recall(ctx context.Context) (own bool, err error) {
	entry, err := l.kv.Get(ctx, l.claim.Run)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var stored claim
	if err := json.Unmarshal(entry.Value(), &stored); err != nil {
		return false, fmt.Errorf("the stored value is not a lease: %w", err)
	}
	if stored.ID != l.claim.ID {
		return false, nil
	}
	l.revision = entry.Revision()
	return true, nil
}

// Lost returns a channel that is closed when another process has taken over the lease. The holder must then stop writing.
func (l *Lease) Lost() <-chan struct{} { return l.lost }

// Release gives the lease up, so that the next holder need not wait. It is not an error if the lease is lost, or if the server
// does not answer: the lease then expires.
func (l *Lease) Release() error {
	l.cancel()
	<-l.done
	select {
	case <-l.lost:
		return nil
	default:
	}
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	for released := false; ; released = true { // a renewal whose answer was lost may have been stored meanwhile
		own, err := l.recall(ctx)
		if err == nil && own {
			err = l.conn.forget(ctx, leaseBucket, l.claim.Run, l.revision)
		}
		if meaningOf(err) == passing {
			l.conn.log.Warn().Err(err).Str("run", l.claim.Run).Msg("cannot release the lease: it expires by itself")
			return nil
		}
		if err != nil {
			return fmt.Errorf("streams: release the lease of run %s: %w", l.claim.Run, err)
		}
		switch {
		case own:
		case released:
			return nil
		default:
			return fmt.Errorf("streams: release the lease of run %s: %w", l.claim.Run, ErrLeaseTaken)
		}
	}
}

func (c claim) encode() ([]byte, error) {
	value, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("streams: lease of run %s: %w", c.Run, err)
	}
	return value, nil
}
