package streams

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// States of a worker.
const (
	// StateStarting: the worker has not reported a state yet.
	StateStarting = "starting"
	// StateIdle: the worker has no input.
	StateIdle = "no input"
	// StateWorking: the worker processes messages, or the trainer computes steps.
	StateWorking = "working"
	// StateWaiting: the worker waits for what the detail names, such as a checkpoint.
	StateWaiting = "waiting"
	// StateRetrying: something failed, and the worker tries it again after a pause.
	StateRetrying = "retrying"
	// StateStuck: the worker holds messages and has made no progress for Limits.StuckAfter. The server delivers them to others.
	StateStuck = "stuck"
	// StatePaused: Pause has paused the worker.
	StatePaused = "paused"
	// StateBackPressure: the worker's output is waiting for a later stage, and it makes no more until that stage has caught up.
	StateBackPressure = "back-pressure"
)

const (
	// heartbeatBucket holds one key per worker, in memory: a restart of the server clears it.
	heartbeatBucket = "ldalign-workers"
	// heartbeatTTL is how long the server keeps the key of a worker that sends no heartbeat.
	heartbeatTTL = 15 * time.Second
	// beatEvery is the longest time between two heartbeats. At each one a worker checks whether it is paused.
	beatEvery = time.Second
	// maxDetail bounds a detail that is an error's text, in bytes.
	maxDetail = 300
	// rateSpan is how many heartbeats a rate is computed over.
	rateSpan = 30
)

// Worker is what a worker reports in its heartbeat.
type Worker struct {
	Run   string `json:"run"`
	Stage string `json:"stage"`
	// Worker is the host/pid of the process.
	Worker string `json:"worker"`
	// Version of the worker's program.
	Version string `json:"version,omitempty"`
	// State is one of the State constants. Detail says what the worker works on or waits for, or why.
	State  string    `json:"state"`
	Detail string    `json:"detail,omitempty"`
	Since  time.Time `json:"since"`
	// Done counts the messages that the worker has settled since it started. Rate is the recent number per second.
	Done uint64  `json:"done"`
	Rate float64 `json:"rate"`
	// Moves grows with every progress, also within a message.
	Moves uint64 `json:"moves"`
	// Seen is when the server stored the last heartbeat.
	Seen time.Time `json:"seen"`
}

// Heartbeat publishes what one worker does and tells the worker whether it is paused. Announce makes it. Its methods are safe for
// concurrent use. Only Close waits for the server. A worker keeps working when the server cannot store its heartbeats.
type Heartbeat struct {
	conn *Conn
	key  string

	mu     sync.Mutex
	worker Worker
	pause  Paused // zero when the worker is not paused
	past   []beat // the recent beats, oldest first
	said   uint64 // how often Say was called

	changed chan struct{} // capacity 1: signals a new state
	cancel  context.CancelFunc
	done    chan struct{}
}

// beat is the number of messages done at a time.
type beat struct {
	at   time.Time
	done uint64
}

// Announce registers a worker of a stage and starts its heartbeat. Before it returns, it checks whether the worker is paused.
// Close ends the heartbeat.
func (c *Conn) Announce(ctx context.Context, run, stage string) *Heartbeat {
	p := &Heartbeat{
		conn: c, key: run + "." + stage + "." + rand.Text(), changed: make(chan struct{}, 1), done: make(chan struct{}),
		worker: Worker{
			Run: run, Stage: stage, Worker: c.worker, Version: c.version, State: StateStarting, Since: time.Now().UTC(),
		},
	}
	beating, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	var b beater
	first, stop := context.WithTimeout(ctx, askTimeout)
	b.beat(first, p)
	stop()
	go p.run(beating, b)
	return p
}

// Say sets what the worker does. Repeating the same state and detail sends nothing.
func (p *Heartbeat) Say(state, detail string) {
	p.mu.Lock()
	p.said++
	p.mu.Unlock()
	p.set(state, detail)
}

// signs grows whenever the worker says or does something.
func (p *Heartbeat) signs() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said + p.worker.Moves
}

// set is Say, but no sign that the worker makes progress.
func (p *Heartbeat) set(state, detail string) {
	p.mu.Lock()
	same := p.worker.State == state && p.worker.Detail == detail
	if p.worker.State != state {
		p.worker.Since = time.Now().UTC()
	}
	p.worker.State, p.worker.Detail = state, detail
	p.mu.Unlock()
	if !same {
		select {
		case p.changed <- struct{}{}:
		default:
		}
	}
}

// Did adds n to the number of settled messages.
func (p *Heartbeat) Did(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.worker.Done += uint64(max(n, 0))
	p.worker.Moves++
}

// Move records progress within a message or a step.
func (p *Heartbeat) Move() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.worker.Moves++
}

// Paused reports whether the worker is paused, and by whom.
func (p *Heartbeat) Paused() (Paused, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pause, p.pause.By != ""
}

// Hold waits while the worker is paused. It returns ctx's error when ctx ends first.
func (p *Heartbeat) Hold(ctx context.Context) error {
	for {
		by, paused := p.Paused()
		if !paused {
			return nil
		}
		p.Say(StatePaused, "by "+by.By)
		if !pause(ctx, p.conn.beat()/10) {
			return ctx.Err()
		}
	}
}

// beat is the time between two heartbeats of a worker.
func (c *Conn) beat() time.Duration { return min(beatEvery, c.limits.AckWait/5) }

// Close removes the worker from the list of workers.
func (p *Heartbeat) Close() {
	p.cancel()
	<-p.done
}

// run sends heartbeats until ctx ends.
func (p *Heartbeat) run(ctx context.Context, b beater) {
	defer close(p.done)
	ticker := time.NewTicker(p.conn.beat())
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			b.remove(p)
			return
		case <-ticker.C:
		case <-p.changed:
			if !pause(ctx, p.conn.beat()/10) { // wait a little: a worker may change its state many times in a row
				continue
			}
		}
		asking, cancel := context.WithTimeout(ctx, askTimeout)
		b.beat(asking, p)
		cancel()
	}
}

// beater is the state of a Heartbeat's goroutine.
type beater struct {
	workers, pauses jetstream.KeyValue
	silent          bool // the failure to store the key is already logged
}

// beat stores the worker's key and reads whether the worker is paused.
func (b *beater) beat(ctx context.Context, p *Heartbeat) {
	err := b.open(ctx, p.conn)
	if err == nil {
		_, err = b.workers.Put(ctx, p.key, p.value())
	}
	var by Paused
	if err == nil {
		by, err = pausedBy(ctx, b.pauses, p.worker.Run, p.worker.Stage)
	}
	if err != nil {
		b.workers, b.pauses = nil, nil // the server may have restarted without them
		if !b.silent && ctx.Err() == nil {
			p.conn.log.Debug().Err(err).Str("stage", p.worker.Stage).Msg("cannot send the worker's heartbeat")
		}
		b.silent = true
		return
	}
	b.silent = false
	p.mu.Lock()
	p.pause = by
	p.mu.Unlock()
}

func (b *beater) open(ctx context.Context, c *Conn) (err error) {
	if b.workers == nil {
		if b.workers, err = c.tryBucket(ctx, heartbeatBucket); err != nil {
			return err
		}
	}
	if b.pauses == nil {
		b.pauses, err = c.tryBucket(ctx, pauseBucket)
	}
	return err
}

// remove deletes the key. When that fails, the server removes it after heartbeatTTL.
func (b *beater) remove(p *Heartbeat) {
	if !p.conn.nc.IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	err := b.open(ctx, p.conn) // a last beat that was cut off has closed the buckets
	if err == nil {
		err = b.workers.Purge(ctx, p.key)
	}
	if err != nil {
		p.conn.log.Debug().Err(err).Str("stage", p.worker.Stage).Msg("cannot delete the worker's key: the server will remove it")
	}
}

// value returns the key's value, with the rate over the last beats.
func (p *Heartbeat) value() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := beat{time.Now(), p.worker.Done}
	if p.past = append(p.past, now); len(p.past) > rateSpan {
		p.past = slices.Delete(p.past, 0, len(p.past)-rateSpan)
	}
	if span := now.at.Sub(p.past[0].at).Seconds(); span > 0 {
		p.worker.Rate = float64(now.done-p.past[0].done) / span
	}
	worker := p.worker
	if detail := p.conn.outages.detail(); detail != "" {
		worker.State, worker.Detail = StateRetrying, text(detail, maxDetail)
	}
	value, err := json.Marshal(worker)
	if err != nil {
		return nil // plain fields cannot fail
	}
	return value
}

// Workers lists a run's workers whose heartbeat the server still keeps, ordered by stage and name.
func (c *Conn) Workers(ctx context.Context, run string) ([]Worker, error) {
	found, err := c.entries(ctx, heartbeatBucket, run+".>")
	if err != nil {
		return nil, fmt.Errorf("streams: workers of run %s: %w", run, err)
	}
	var workers []Worker
	for _, e := range found {
		var w Worker
		if json.Unmarshal(e.Value(), &w) == nil && w.Run == run {
			w.Seen = e.Created().UTC()
			workers = append(workers, w)
		}
	}
	slices.SortFunc(workers, func(a, b Worker) int {
		if d := strings.Compare(a.Stage, b.Stage); d != 0 {
			return d
		}
		return strings.Compare(a.Worker, b.Worker)
	})
	return workers, nil
}
