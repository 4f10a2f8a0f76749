package streams

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// What a worker says that it does, or why it does nothing.
const (
	// StateStarting: it has said nothing yet.
	StateStarting = "starting"
	// StateIdle: there is no input.
	StateIdle = "no input"
	// StateWorking: it has messages, or steps, in hand.
	StateWorking = "working"
	// StateWaiting: for what the detail names, such as a checkpoint.
	StateWaiting = "waiting"
	// StateRetrying: something failed and is tried again after a pause.
	StateRetrying = "retrying"
	// StatePaused: by Pause.
	StatePaused = "paused"
	// StateBackPressure: what it made lies before a later stage, and it makes no more until that has gone on.
	StateBackPressure = "back-pressure"
)

const (
	// heartbeatBucket holds one key per worker, in memory: it lives no longer than the server.
	heartbeatBucket = "ldalign-workers"
	// heartbeatTTL is when the server forgets a worker that gave no sign of life.
	heartbeatTTL = 15 * time.Second
	// beatEvery is the longest time between two signs of life. At each, a worker looks whether it is to pause.
	beatEvery = time.Second
	// maxDetail bounds a detail that is an error's text.
	maxDetail = 300
	// rateSpan is how many beats a rate is taken over.
	rateSpan = 30
)

// Worker is what a process says of its part in a stage.
type Worker struct {
	Run   string `json:"run"`
	Stage string `json:"stage"`
	// Worker is host/pid of the process.
	Worker string `json:"worker"`
	// State is one of the State constants; Detail says on what, for what, or why.
	State  string    `json:"state"`
	Detail string    `json:"detail,omitempty"`
	Since  time.Time `json:"since"`
	// Done counts the messages that it settled since it started, and Rate how many a second of late.
	Done uint64  `json:"done"`
	Rate float64 `json:"rate"`
	// Moves grows with every sign of progress, also within a message.
	Moves uint64 `json:"moves"`
	// Seen is when the server last heard of it.
	Seen time.Time `json:"seen"`
}

// Heartbeat tells others what one worker does, and the worker whether it is to pause. It is made by Announce. Its methods may
// be called by several goroutines and never wait for the server, but for Close. Nothing rests on it: without a server that
// keeps the key, the worker works all the same.
type Heartbeat struct {
	conn *Conn
	key  string

	mu     sync.Mutex
	worker Worker
	pause  Paused // zero when nobody paused it
	past   []beat // of late, oldest first

	changed chan struct{} // capacity 1: says that a state is new
	cancel  context.CancelFunc
	done    chan struct{}
}

// beat is how much was done when.
type beat struct {
	at   time.Time
	done uint64
}

// Announce makes a worker of a stage known, and looks once whether it is to pause before it returns. Close ends it.
func (c *Conn) Announce(ctx context.Context, run, stage string) *Heartbeat {
	p := &Heartbeat{
		conn: c, key: run + "." + stage + "." + rand.Text(), changed: make(chan struct{}, 1), done: make(chan struct{}),
		worker: Worker{
			Run: run, Stage: stage, Worker: c.worker, State: StateStarting, Since: time.Now().UTC(),
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

// Say tells what the worker does. Saying the same again costs nothing.
func (p *Heartbeat) Say(state, detail string) {
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

// Did counts settled messages.
func (p *Heartbeat) Did(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.worker.Done += uint64(max(n, 0))
	p.worker.Moves++
}

// Move is a sign of progress within a message or a step.
func (p *Heartbeat) Move() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.worker.Moves++
}

// Paused tells whether the worker is to pause, and by whom.
func (p *Heartbeat) Paused() (Paused, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pause, p.pause.By != ""
}

// Hold waits as long as the worker is to pause. The error is that of ctx.
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

// beat is the time between two signs of life of a worker.
func (c *Conn) beat() time.Duration { return min(beatEvery, c.limits.AckWait/5) }

// Close takes the worker off the list.
func (p *Heartbeat) Close() {
	p.cancel()
	<-p.done
}

// run beats until it is told to end.
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
			if !pause(ctx, p.conn.beat()/10) { // a worker may say many things in a row
				continue
			}
		}
		asking, cancel := context.WithTimeout(ctx, askTimeout)
		b.beat(asking, p)
		cancel()
	}
}

// beater is what the goroutine of a Heartbeat keeps.
type beater struct {
	workers, pauses jetstream.KeyValue
	silent          bool // it was logged that the server does not keep the key
}

// beat writes the worker's key and reads whether it is to pause.
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
		b.workers, b.pauses = nil, nil // the server may have come back without them
		if !b.silent && ctx.Err() == nil {
			p.conn.log.Debug().Err(err).Str("stage", p.worker.Stage).Msg("cannot tell the server what this worker does")
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
		if b.workers, err = c.presences(ctx); err != nil {
			return err
		}
	}
	if b.pauses == nil {
		b.pauses, err = c.bucket(ctx, pauseBucket, "runs and stages that are paused", 0)
	}
	return err
}

// remove takes the key away; the server forgets it by itself when that fails.
func (b *beater) remove(p *Heartbeat) {
	if !p.conn.nc.IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	err := b.open(ctx, p.conn) // the last beat may have been cut off, and have forgotten the buckets
	if err == nil {
		err = b.workers.Purge(ctx, p.key)
	}
	if err != nil {
		p.conn.log.Debug().Err(err).Str("stage", p.worker.Stage).Msg("left a worker's key to the server")
	}
}

// value is the key's value, with the rate of the last beats.
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
	value, err := json.Marshal(p.worker)
	if err != nil {
		return nil // plain fields cannot fail
	}
	return value
}

// presences opens the bucket of workers.
func (c *Conn) presences(ctx context.Context) (jetstream.KeyValue, error) {
	kv, err := c.js.KeyValue(ctx, heartbeatBucket)
	if !errors.Is(err, jetstream.ErrBucketNotFound) {
		return kv, err
	}
	kv, err = c.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: heartbeatBucket, Description: "what workers do", History: 1, TTL: heartbeatTTL, MaxBytes: 4 << 20,
		Storage: jetstream.MemoryStorage, Replicas: c.limits.Replicas,
	})
	if errors.Is(err, jetstream.ErrBucketExists) {
		return c.js.KeyValue(ctx, heartbeatBucket)
	}
	return kv, err
}

// Workers lists a run's workers that gave a sign of life of late, by stage and name.
func (c *Conn) Workers(ctx context.Context, run string) ([]Worker, error) {
	kv, err := c.js.KeyValue(ctx, heartbeatBucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("streams: workers of run %s: %w", run, err)
	}
	var workers []Worker
	err = eachKey(ctx, kv, run+".>", func(e jetstream.KeyValueEntry) {
		var w Worker
		if json.Unmarshal(e.Value(), &w) == nil && w.Run == run {
			w.Seen = e.Created().UTC()
			workers = append(workers, w)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("streams: workers of run %s: %w", run, err)
	}
	slices.SortFunc(workers, func(a, b Worker) int {
		if d := strings.Compare(a.Stage, b.Stage); d != 0 {
			return d
		}
		return strings.Compare(a.Worker, b.Worker)
	})
	return workers, nil
}

// eachKey calls f with the entries whose keys match.
func eachKey(ctx context.Context, kv jetstream.KeyValue, keys string, f func(jetstream.KeyValueEntry)) (err error) {
	watcher, err := kv.Watch(ctx, keys, jetstream.IgnoreDeletes())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, watcher.Stop()) }()
	for {
		select {
		case entry := <-watcher.Updates():
			if entry == nil { // that was all
				return nil
			}
			f(entry)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
