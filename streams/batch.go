package streams

import (
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ldalign/ldalign/schemas/events"
)

// input is a message that the stage holds.
type input struct {
	jetstream.Msg
	meta *jetstream.MsgMetadata
	body events.Message // nil until opened
}

// place is the position of the message.
func (in *input) place() place { return place{in.meta.Stream, in.meta.Sequence.Stream} }

// batch holds the messages that a stage works on. From the moment a message is added until it is answered, a heartbeat tells the
// server that it is in progress, so that the server does not deliver a slow batch to another worker. The heartbeat ends while the
// worker makes no progress.
type batch struct {
	inputs []*input // used by the stage's goroutine only

	mu   sync.Mutex
	held []jetstream.Msg // the same messages, for the heartbeat
	// moving is called before each heartbeat with the number of messages, and reports whether the worker makes progress.
	moving func(held int) bool
	stop   chan struct{}
	done   chan struct{} // nil until the heartbeat runs
	beat   time.Duration
}

func newBatch(beat time.Duration, moving func(held int) bool) *batch {
	return &batch{beat: beat, moving: moving, stop: make(chan struct{})}
}

func (b *batch) add(in *input) {
	b.inputs = append(b.inputs, in)
	b.mu.Lock()
	b.held = append(b.held, in.Msg)
	b.mu.Unlock()
	if b.done == nil {
		b.done = make(chan struct{})
		go b.heartbeat()
	}
}

func (b *batch) heartbeat() {
	defer close(b.done)
	ticker := time.NewTicker(b.beat)
	defer ticker.Stop()
	for {
		select {
		case <-b.stop:
			return
		case <-ticker.C:
		}
		b.mu.Lock()
		held := b.held
		b.mu.Unlock()
		if !b.moving(len(held)) {
			continue
		}
		for _, msg := range held {
			// An error means that the message is answered or the connection is lost; the next beat tries again.
			_ = msg.InProgress()
		}
	}
}

// release gives back the messages that were not answered and ends the heartbeat.
func (b *batch) release() {
	for _, in := range b.inputs {
		// nats.go refuses this for a message that was answered, so only the others are given back.
		_ = in.Nak()
	}
	if b.done != nil {
		close(b.stop)
		<-b.done
	}
}
