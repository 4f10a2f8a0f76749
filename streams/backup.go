package streams

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// savedMessage is a message as a backup holds it, one a line.
type savedMessage struct {
	Seq     uint64      `json:"seq"`
	Subject string      `json:"subject"`
	Time    time.Time   `json:"time"`
	Header  nats.Header `json:"header"`
	Data    []byte      `json:"data"`
}

// Progress says how far a stage of a run had come with the messages of a kind: a part of a backup.
type Progress struct {
	Stage string       `json:"stage"`
	Kind  schemas.Kind `json:"kind"`
	// Settled is the position up to which everything is acknowledged.
	Settled uint64 `json:"settled"`
}

// ProgressOf lists how far the stages of a run are. Read before the messages, it never claims what they do not show.
func (c *Conn) ProgressOf(ctx context.Context, run string) ([]Progress, error) {
	var out []Progress
	for _, kind := range append([]schemas.Kind{schemas.Checkpoints}, pairKinds()...) {
		infos, err := c.consumers(ctx, kind, run)
		if err != nil {
			return nil, fmt.Errorf("streams: progress of run %s: %w", run, err)
		}
		for _, info := range infos {
			stage, _, _ := strings.Cut(info.Name, "_")
			out = append(out, Progress{stage, kind, info.AckFloor.Stream})
		}
	}
	return out, nil
}

// Save writes a run's messages of a kind, in the order of the log, as JSON lines that Load reads. It returns their number.
func (c *Conn) Save(ctx context.Context, kind schemas.Kind, run string, w io.Writer, onMessage func()) (int, error) {
	out := bufio.NewWriter(w)
	encode := json.NewEncoder(out)
	n := 0
	err := c.scan(ctx, scan{stream: StreamName(kind), subject: schemas.RunSubjects(kind, run)}, func(e entry) error {
		n++
		onMessage()
		return encode.Encode(savedMessage{e.seq, e.subject, e.time.UTC(), e.header, e.data})
	})
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		return n, fmt.Errorf("streams: save %s of run %s: %w", kind, run, err)
	}
	return n, nil
}

// Moved says where messages of a backup stand now.
type Moved map[schemas.Kind][]move

type move struct{ from, to uint64 }

// To is the position of the last message of a kind that stood at or before seq; 0 when there is none.
func (m Moved) To(kind schemas.Kind, seq uint64) uint64 {
	at, found := slices.BinarySearchFunc(m[kind], seq, func(m move, seq uint64) int {
		switch {
		case m.from < seq:
			return -1
		case m.from > seq:
			return 1
		}
		return 0
	})
	if found {
		return m[kind][at].to
	}
	if at == 0 {
		return 0
	}
	return m[kind][at-1].to
}

// Load stores what Save has written, in its order and under its ids, without what the log holds already, so that loading it
// again stores nothing twice, and notes in moved where each message stands now. What names positions (a message's parent, a
// dead letter's message) is changed accordingly, so kinds are loaded in the order in which data flows. ErrBackup when the bytes
// are not of that run and kind.
func (c *Conn) Load(ctx context.Context, kind schemas.Kind, run string, r io.Reader, moved Moved, onMessage func()) error {
	failed := func(err error) error { return fmt.Errorf("streams: load %s of run %s: %w", kind, run, err) }
	var ids []string // message ids in the order of the file
	var from []uint64
	var before uint64
	var batch []*nats.Msg
	store := func() error {
		err := c.send(ctx, kind, batch)
		batch = batch[:0]
		return err
	}
	have, err := c.firsts(ctx, kind, schemas.RunSubjects(kind, run))
	if err != nil {
		return failed(err)
	}
	err = eachSaved(r, func(s savedMessage) error {
		if err := s.check(kind, run, before); err != nil {
			return err
		}
		msg, err := s.moved(kind, moved)
		if err != nil {
			return err
		}
		id := msg.Header.Get(headerID)
		ids, from, before = append(ids, id), append(from, s.Seq), s.Seq
		if _, stored := have[id]; !stored {
			have[id], batch = 0, append(batch, msg)
		}
		onMessage()
		if len(batch) < window {
			return nil
		}
		return store()
	})
	if err == nil {
		err = store()
	}
	if err != nil {
		return failed(err)
	}
	now, err := c.firsts(ctx, kind, schemas.RunSubjects(kind, run))
	if err != nil {
		return failed(err)
	}
	moves := make([]move, len(ids))
	for i, id := range ids {
		if moves[i] = (move{from[i], now[id]}); moves[i].to == 0 {
			return failed(fmt.Errorf("message %s was not stored: another process has deleted it", id))
		}
	}
	moved[kind] = moves
	return nil
}

// firsts are the positions of the messages on the subjects that match, by the message ids that messageID makes; of a message
// that was stored again, the first.
func (c *Conn) firsts(ctx context.Context, kind schemas.Kind, subjects string) (map[string]uint64, error) {
	at := map[string]uint64{}
	err := c.scan(ctx, scan{stream: StreamName(kind), subject: subjects, ids: true}, func(e entry) error {
		if id := incarnate(e.header.Get(headerID), 0); at[id] == 0 {
			at[id] = e.seq
		}
		return nil
	})
	return at, err
}

// maxPlaces bounds how many logs before the newest a message remembers its place in.
const maxPlaces = 15

// ErrBackup: a file of a backup is not what it should be.
var ErrBackup = errors.New("streams: bad backup")

// eachSaved calls f with the messages of a file that Save has written. ErrBackup when it is none.
func eachSaved(r io.Reader, f func(savedMessage) error) error {
	decode := json.NewDecoder(bufio.NewReader(r))
	for n := 1; ; n++ {
		var s savedMessage
		err := decode.Decode(&s)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: message %d: %w", ErrBackup, n, err)
		}
		s.tidy()
		if err := f(s); err != nil {
			return err
		}
	}
}

// tidy drops header names without a value, which nats.Header cannot be asked for.
func (s savedMessage) tidy() {
	maps.DeleteFunc(s.Header, func(_ string, values []string) bool { return len(values) == 0 })
}

// check tells whether the message can be one of a run's, behind that at another place.
func (s savedMessage) check(kind schemas.Kind, run string, before uint64) error {
	k, of, _, err := schemas.ParseSubject(s.Subject)
	if err != nil || k != kind || of != run || s.Header.Get(headerID) == "" || s.Seq <= before {
		return fmt.Errorf("%w: a message behind %d is on %q at %d", ErrBackup, before, s.Subject, s.Seq)
	}
	return nil
}

// moved is the message with the positions that it names where they are now.
func (s savedMessage) moved(kind schemas.Kind, moved Moved) (*nats.Msg, error) {
	msg := envelope(s.Subject, incarnate(s.Header.Get(headerID), 0), s.Data)
	for _, name := range []string{headerRedriven, headerParent} {
		if value := s.Header.Get(name); value != "" {
			msg.Header.Set(name, value)
		}
	}
	was := strconv.FormatUint(s.Seq, 10)
	before := placesOf(s.Header)
	for _, seq := range before[:min(len(before), maxPlaces)] {
		was += "," + strconv.FormatUint(seq, 10)
	}
	msg.Header.Set(headerWas, was)
	if from, seq, ok := parentOf(s.Header); ok {
		msg.Header.Set(headerParent, parent(from, moved.To(from, seq)))
	}
	if kind != schemas.DeadLetters {
		return msg, nil
	}
	m, err := open(s.Subject, s.Data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBackup, err)
	}
	letter := m.(*events.DeadLetter)
	if of, _, _, err := schemas.ParseSubject(letter.GetSubject()); err == nil {
		letter.Sequence = moved.To(of, letter.GetSequence())
	}
	if msg.Data, err = proto.Marshal(letter); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBackup, err)
	}
	id := messageID(kind, letter.GetRun(), letter.ID())
	if _, mark, marked := strings.Cut(s.Header.Get(headerID), redriveMark); marked {
		id += redriveMark + mark
	}
	msg.Header.Set(headerID, id) // so that a new letter of another message at the old place is not taken for this one
	return msg, nil
}

// SettleUpTo makes a stage's consumer begin behind what it had settled before the backup.
func (c *Conn) SettleUpTo(ctx context.Context, run string, p Progress, moved Moved) error {
	failed := func(err error) error { return fmt.Errorf("streams: restore %s of run %s: %w", p.Stage, run, err) }
	stage := Stage{Name: p.Stage, In: p.Kind, Run: run}
	consumer, err := c.js.CreateOrUpdateConsumer(ctx, StreamName(p.Kind), stage.consumer(c.limits))
	if err != nil {
		return failed(err)
	}
	upTo := moved.To(p.Kind, p.Settled)
	for done := consumer.CachedInfo().AckFloor.Stream; done < upTo; {
		batch, err := consumer.FetchNoWait(window) // all that it asks for is in the log
		if err != nil {
			return failed(err)
		}
		got := 0
		for msg := range batch.Messages() {
			got++
			meta, err := msg.Metadata()
			if err != nil {
				return failed(err)
			}
			if meta.Sequence.Stream > upTo {
				err = msg.Nak()
			} else {
				err = msg.Ack()
			}
			if err != nil {
				return failed(err)
			}
			done = max(done, meta.Sequence.Stream)
		}
		if err := batch.Error(); err != nil || got == 0 {
			return failed(errors.Join(err, fmt.Errorf("settled %d of %d", done, upTo)))
		}
	}
	return c.flush()
}
