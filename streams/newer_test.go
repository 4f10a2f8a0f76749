package streams

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// putNewer stores the i-th prompt of run r as a program of the next schema version would.
func putNewer(t *testing.T, c *Conn, i int) {
	t.Helper()
	p := prompt("r", 0, i)
	p.Schema = events.Version + 1
	put(t, c, schemas.Prompts, schemas.Subject(schemas.Prompts, "r", 0), i, marshal(t, p))
}

// newerWorker is a generator of a program that reads the next schema version. It answers n prompts.
func newerWorker(t *testing.T, c *Conn, n int) {
	t.Helper()
	ctx := testContext(t)
	consumer, err := c.js.Consumer(ctx, StreamName(schemas.Prompts, "r"), "generator")
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		m, err := consumer.Next(jetstream.FetchContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		p := &events.Prompt{}
		if err := proto.Unmarshal(m.Data(), p); err != nil {
			t.Fatal(err)
		}
		if p.GetSchema() <= events.Version {
			t.Errorf("prompt %d is left although the other worker can read it", p.GetPosition())
		}
		p.Schema = events.Version
		publish(t, c, schemas.Pairs, pairOf(p))
		if err := m.Ack(); err != nil {
			t.Fatal(err)
		}
	}
}

// A worker that is older than some of its messages leaves them to newer workers, and says so. Nothing becomes a dead letter.
func TestOlderAndNewerWorker(t *testing.T) {
	c := openQuick(t)
	c.version = "v1.2.3"
	const n, newer = 9, 3
	for i := range n {
		if i%3 == 1 {
			putNewer(t, c, i)
		} else {
			publish(t, c, schemas.Prompts, prompt("r", 0, i))
		}
	}
	s := generator("r", 2)
	start(t, c, s, answer)
	await(t, c, schemas.Pairs, "r", n-newer)
	w := workersAre(t, c, "r", oneIs(StateWaiting))[0]
	if !strings.Contains(w.Detail, "schema version is 2, this program reads up to 1") || w.Version != "v1.2.3" {
		t.Errorf("the worker says %+v", w)
	}
	consumerIs(t, c, s, func(unread, unanswered int) bool { return unread == 0 && unanswered == newer })
	newerWorker(t, c, newer)
	await(t, c, schemas.Pairs, "r", n)
	settled(t, c, s)
	publish(t, c, schemas.Prompts, prompt("r", 1, 0))
	await(t, c, schemas.Pairs, "r", n+1)
	workersAre(t, c, "r", oneIs(StateIdle))
	if letters := stored(t, c, schemas.DeadLetters, "r"); len(letters) != 0 {
		t.Errorf("%d dead letters, want none", len(letters))
	}
}

// A reader does not skip what a newer program has written.
func TestReaderOfANewerProgram(t *testing.T) {
	c := openQuick(t)
	publish(t, c, schemas.Prompts, prompt("r", 0, 0))
	putNewer(t, c, 1)
	read := 0
	err := c.Read(testContext(t), schemas.Prompts, "r", 0, 0, func(Received) error {
		read++
		return nil
	})
	if !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), "LDALIGN_r_PROMPTS at 2") || read != 1 {
		t.Errorf("read %d prompts, then %v", read, err)
	}
}

// A field that a newer program has added is ignored, and travels on inside of the next message.
func TestAddedFieldTravelsOn(t *testing.T) {
	c := openQuick(t)
	added := protowire.AppendString(protowire.AppendTag(nil, 2000, protowire.BytesType), "later")
	put(t, c, schemas.Prompts, schemas.Subject(schemas.Prompts, "r", 0), 0, append(marshal(t, prompt("r", 0, 0)), added...))
	start(t, c, generator("r", 1), answer)
	pair := await(t, c, schemas.Pairs, "r", 1)[0].Message.(*events.Pair)
	if got := pair.GetPrompt().ProtoReflect().GetUnknown(); !bytes.Equal(got, added) {
		t.Errorf("the pair's prompt has the unknown fields %q, want %q", got, added)
	}
}
