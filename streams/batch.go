package streams

import (
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ldalign/ldalign/schemas/events"
)

// input is a message in hand.
type input struct {
	jetstream.Msg
	meta *jetstream.MsgMetadata
	body events.Message // nil until opened
}

// place is where the message stands.
func (in *input) place() place { return place{in.meta.Stream, in.meta.Sequence.Stream} }

// batch holds the messages in hand. From the moment a message is added until it is answered, the server is told again
// and again that it is being worked on, so that a slow batch is not delivered to somebody else meanwhile.
type batch struct {
	inputs []*input // of the stage's goroutine

	mu   sync.Mutex
	held []jetstream.Msg // the same, of the heartbeat
	stop chan struct{}
	done chan struct{} // nil until the heartbeat runs
	beat time.Duration
}

func newBatch(beat time.Duration) *batch { return &batch{beat: beat, stop: make(chan struct{})} }

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
		for _, msg := range held {
			// Answered already, or no connection: either way there is nothing to do, the next beat tries again.
			_ = msg.InProgress()
		}
	}
}

// release gives back what was not answered, at once, and ends the heartbeat.
func (b *batch) release() {
	for _, in := range b.inputs {
		// Refused by nats.go for a message that was answered, which is the point.
		_ = in.Nak()
	}
	if b.done != nil {
		close(b.stop)
		<-b.done
	}
}
