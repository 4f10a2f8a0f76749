package streams

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// This file is what package ledger stands on: the log as it is stored, below messages and stages.

// Entry is a message as the log holds it.
type Entry struct {
	Stream, Subject string
	// Seq is the entry's position in its stream, from 1.
	Seq uint64
	// Time at which the server stored it.
	Time   time.Time
	Header nats.Header
	Data   []byte
}

// NewEntry is an entry that is to be stored on the subject of an iteration under the id of its message. mark, which may be
// empty, tells it from other messages of that id.
func NewEntry(kind schemas.Kind, run string, iteration uint32, id, mark string, data []byte) Entry {
	if mark != "" {
		id += redriveMark + mark
	}
	msg := envelope(schemas.Subject(kind, run, iteration), messageID(kind, run, id), data)
	return Entry{Subject: msg.Subject, Header: msg.Header, Data: data}
}

// EntryOf is a message as an entry that is to be stored; mark is that of NewEntry.
func EntryOf(kind schemas.Kind, m events.Message, mark string) (Entry, error) {
	msg, err := seal(kind, m)
	if err != nil {
		return Entry{}, err
	}
	return NewEntry(kind, m.GetRun(), m.GetIteration(), m.ID(), mark, msg.Data), nil
}

// ID is the id of the message, which the header names even where the bytes cannot be read; empty when this program has not
// published it.
func (e Entry) ID() string { return idOf(e.Header) }

// Mark is the mark that the entry was stored with.
func (e Entry) Mark() string {
	_, _, id, _ := splitID(e.Header.Get(headerID))
	_, mark, _ := strings.Cut(id, redriveMark)
	return mark
}

// Key is what the log stores an entry once by.
func (e Entry) Key() string { return incarnate(e.Header.Get(headerID), 0) }

// Parent is the message that a stage made this one from: its kind and position. ok is false when the entry does not name one.
func (e Entry) Parent() (kind schemas.Kind, seq uint64, ok bool) { return parentOf(e.Header) }

// SetParent is the inverse of Parent.
func (e Entry) SetParent(kind schemas.Kind, seq uint64) {
	e.Header.Set(headerParent, parent(kind, seq))
}

// Redriven is the number of the dead letter that the message was taken from; empty for none.
func (e Entry) Redriven() string { return e.Header.Get(headerRedriven) }

// SetRedriven is the inverse of Redriven.
func (e Entry) SetRedriven(number string) { e.Header.Set(headerRedriven, number) }

// As is the entry with the subject, id and bytes of another, and what else its own header says.
func (e Entry) As(other Entry) Entry {
	e.Subject, e.Data = other.Subject, other.Data
	header := nats.Header{}
	maps.Copy(header, e.Header)
	header.Set(headerID, other.Header.Get(headerID))
	e.Header = header
	return e
}

// Restored is an entry of a backup as it is to be stored again: it remembers the places that it had.
func (e Entry) Restored() Entry {
	msg := envelope(e.Subject, e.Key(), e.Data)
	for _, name := range []string{headerRedriven, headerParent} {
		if value := e.Header.Get(name); value != "" {
			msg.Header.Set(name, value)
		}
	}
	was := strconv.FormatUint(e.Seq, 10)
	before := placesOf(e.Header)
	for _, seq := range before[:min(len(before), maxPlaces)] {
		was += "," + strconv.FormatUint(seq, 10)
	}
	msg.Header.Set(headerWas, was)
	return Entry{Subject: e.Subject, Header: msg.Header, Data: e.Data}
}

// maxPlaces bounds how many logs before the newest a message remembers its place in.
const maxPlaces = 15

// Open decodes the message. A *schemas.Reject says why the bytes are not a message of their subject.
func (e Entry) Open() (events.Message, error) { return open(e.Subject, e.Data) }

// Received is the entry with its decoded message.
func (e Entry) Received(m events.Message) Received {
	return Received{Message: m, Stream: e.Stream, Subject: e.Subject, Seq: e.Seq, Time: e.Time}
}

// Part selects entries of a log.
type Part struct {
	Kind schemas.Kind
	Run  string
	// Iteration is one iteration, or AllIterations.
	Iteration int
	// First and Last bound the positions, both included; 0 is no bound.
	First, Last uint64
	// Headers leaves the bytes out.
	Headers bool
	// Follow waits, at the end of the log, for more until the context ends.
	Follow bool
}

// Scan calls f with the entries that p selects, in the order of the log and without gaps, whatever happens to server and
// connection meanwhile. An error of f ends the scan and is returned, ErrStop as nil.
func (c *Conn) Scan(ctx context.Context, p Part, f func(Entry) error) error {
	return c.scan(ctx, scan{
		stream: StreamName(p.Kind), subject: subjectOf(p.Kind, p.Run, p.Iteration), from: p.First, last: p.Last,
		ids: p.Headers, follow: p.Follow,
	}, f)
}

// Newest is the newest entry of a kind in a run and iteration (or AllIterations); ErrNotFound when there is none.
func (c *Conn) Newest(ctx context.Context, kind schemas.Kind, run string, iteration int) (Entry, error) {
	stream, err := c.stream(ctx, kind)
	if err != nil {
		return Entry{}, err
	}
	raw, err := stream.GetLastMsgForSubject(ctx, subjectOf(kind, run, iteration))
	return entryOf(stream, raw, err, fmt.Sprintf("%s in run %s", kind, run))
}

// At is the entry at a position; ErrNotFound when there is none.
func (c *Conn) At(ctx context.Context, kind schemas.Kind, seq uint64) (Entry, error) {
	stream, err := c.stream(ctx, kind)
	if err != nil {
		return Entry{}, err
	}
	raw, err := stream.GetMsg(ctx, seq)
	return entryOf(stream, raw, err, fmt.Sprintf("%s at %d", kind, seq))
}

func entryOf(stream jetstream.Stream, raw *jetstream.RawStreamMsg, err error, what string) (Entry, error) {
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Entry{}, fmt.Errorf("%w: no %s", ErrNotFound, what)
	}
	if err != nil {
		return Entry{}, fmt.Errorf("streams: %s: %w", what, err)
	}
	return Entry{
		Stream: stream.CachedInfo().Config.Name, Subject: raw.Subject, Seq: raw.Sequence, Time: raw.Time,
		Header: raw.Header, Data: raw.Data,
	}, nil
}

// stream opens the stream of a kind; ErrNotFound when the server has none.
func (c *Conn) stream(ctx context.Context, kind schemas.Kind) (jetstream.Stream, error) {
	stream, err := c.js.Stream(ctx, StreamName(kind))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, noStream(StreamName(kind))
	}
	if err != nil {
		return nil, fmt.Errorf("streams: stream %s: %w", StreamName(kind), err)
	}
	return stream, nil
}

// State is what a log holds.
type State struct {
	// First is the lowest position that is left.
	First uint64
	// Bytes are stored, and Limit is how many can be.
	Bytes, Limit uint64
	// Messages are counted by iteration.
	Messages map[uint32]uint64
}

// State tells what the log of a kind holds of a run.
func (c *Conn) State(ctx context.Context, kind schemas.Kind, run string) (State, error) {
	stream, err := c.stream(ctx, kind)
	if err != nil {
		return State{}, err
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(schemas.RunSubjects(kind, run)))
	if err != nil {
		return State{}, fmt.Errorf("streams: state of %s: %w", StreamName(kind), err)
	}
	state := State{
		First: info.State.FirstSeq, Bytes: info.State.Bytes, Limit: uint64(max(info.Config.MaxBytes, 0)),
		Messages: map[uint32]uint64{},
	}
	for subject, n := range info.State.Subjects {
		if _, _, iteration, err := schemas.ParseSubject(subject); err == nil {
			state.Messages[iteration] += n
		}
	}
	return state, nil
}

// Store stores entries on the log of a kind, each once under its Key, in the given order.
func (c *Conn) Store(ctx context.Context, kind schemas.Kind, entries ...Entry) error {
	msgs := make([]*nats.Msg, len(entries))
	for i, e := range entries {
		msgs[i] = &nats.Msg{Subject: e.Subject, Header: e.Header, Data: e.Data}
	}
	return c.send(ctx, kind, msgs)
}

// Remove removes entries of a log that allows it: that of dead letters. Those that are not there are passed over.
func (c *Conn) Remove(ctx context.Context, kind schemas.Kind, seqs ...uint64) error {
	if len(seqs) == 0 {
		return nil
	}
	stream, err := c.stream(ctx, kind)
	if err != nil {
		return err
	}
	for _, seq := range seqs {
		if err := stream.DeleteMsg(ctx, seq); err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
			return fmt.Errorf("streams: remove %s at %d: %w", kind, seq, err)
		}
	}
	return nil
}

// Purge removes the entries of a kind and iteration from a run's log, and returns their number.
func (c *Conn) Purge(ctx context.Context, kind schemas.Kind, run string, iteration uint32) (uint64, error) {
	return c.purge(ctx, kind, schemas.Subject(kind, run, iteration))
}

// Reader is a stage's place in the log of the kind that it reads.
type Reader struct {
	Stage string
	// Unread and Unanswered count the messages that no worker has had, and that some worker has and has not settled.
	Unread, Unanswered int
	// Settled is the position up to which everything is settled, by acknowledgements alone, and Floor the same where the log has
	// nothing more for the stage.
	Settled, Floor uint64
}

// Readers lists the stages of a run that read a kind, by name.
func (c *Conn) Readers(ctx context.Context, kind schemas.Kind, run string) ([]Reader, error) {
	infos, err := c.consumers(ctx, kind, run)
	if err != nil {
		return nil, err
	}
	readers := make([]Reader, len(infos))
	for i, info := range infos {
		stage, _, _ := strings.Cut(info.Name, "_")
		readers[i] = Reader{stage, int(info.NumPending), info.NumAckPending, info.AckFloor.Stream, floorOf(info)}
	}
	return readers, nil
}

// floorOf is the position up to which a stage has acknowledged everything.
func floorOf(info *jetstream.ConsumerInfo) uint64 {
	if info.NumPending == 0 && info.NumAckPending == 0 {
		return max(info.AckFloor.Stream, info.Delivered.Stream)
	}
	return info.AckFloor.Stream
}

// SettleUpTo makes a stage, which must not run, begin behind a position of the log.
func (c *Conn) SettleUpTo(ctx context.Context, stage string, kind schemas.Kind, run string, seq uint64) error {
	failed := func(err error) error { return fmt.Errorf("streams: settle %s of run %s: %w", stage, run, err) }
	declared := Stage{Name: stage, In: kind, Run: run}
	consumer, err := c.js.CreateOrUpdateConsumer(ctx, StreamName(kind), declared.consumer(c.limits))
	if err != nil {
		return failed(err)
	}
	for done := consumer.CachedInfo().AckFloor.Stream; done < seq; {
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
			if meta.Sequence.Stream > seq {
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
			return failed(errors.Join(err, fmt.Errorf("settled %d of %d", done, seq)))
		}
	}
	return c.flush()
}
