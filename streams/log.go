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

// Package ledger is built on this file, which gives access to the log as it is stored.

// Entry is a message as the log stores it.
type Entry struct {
	Stream, Subject string
	// Seq is the entry's position in its stream, from 1.
	Seq uint64
	// Time at which the server stored it.
	Time   time.Time
	Header nats.Header
	Data   []byte
}

// NewEntry returns an entry for the subject of an iteration, with the id of its message. A mark that is not empty distinguishes
// the entry from other entries with the same id.
func NewEntry(kind schemas.Kind, run string, iteration uint32, id, mark string, data []byte) Entry {
	if mark != "" {
		id += redriveMark + mark
	}
	msg := envelope(schemas.Subject(kind, run, iteration), messageID(kind, id), data)
	return Entry{Subject: msg.Subject, Header: msg.Header, Data: data}
}

// EntryOf encodes a message as an entry to be stored. mark is as in NewEntry.
func EntryOf(kind schemas.Kind, m events.Message, mark string) (Entry, error) {
	msg, err := seal(kind, m)
	if err != nil {
		return Entry{}, err
	}
	return NewEntry(kind, m.GetRun(), m.GetIteration(), m.ID(), mark, msg.Data), nil
}

// ID returns the message's id from the header, so it is known even when the bytes cannot be decoded. It is empty when this
// program has not published the message.
func (e Entry) ID() string { return idOf(e.Header) }

// Mark returns the mark that the entry was stored with.
func (e Entry) Mark() string {
	_, mark, _ := strings.Cut(e.Key(), redriveMark)
	return mark
}

// Key returns the key under which the log stores an entry once: its kind, id and mark.
func (e Entry) Key() string { return e.Header.Get(headerID) }

// Parent returns the kind and position of the message that a stage made this one from. ok is false when the entry names none.
func (e Entry) Parent() (kind schemas.Kind, seq uint64, ok bool) { return parentOf(e.Header) }

// Libtorch returns the version of libtorch that the message was computed with; empty for a message that needed none.
func (e Entry) Libtorch() string { return e.Header.Get(headerLibtorch) }

// Redriven returns the number of the dead letter that the message was redriven from; empty for none.
func (e Entry) Redriven() string { return e.Header.Get(headerRedriven) }

// SetRedriven sets the number that Redriven returns.
func (e Entry) SetRedriven(number string) { e.Header.Set(headerRedriven, number) }

// As returns the entry with the subject, id and bytes of other. It keeps the rest of its own header.
func (e Entry) As(other Entry) Entry {
	e.Subject, e.Data = other.Subject, other.Data
	header := nats.Header{}
	maps.Copy(header, e.Header)
	header.Set(headerID, other.Header.Get(headerID))
	e.Header = header
	return e
}

// Open decodes the message. A *schemas.Reject says why the bytes are not a message of their subject. The error wraps ErrNewer if
// this program is too old for the message: then nobody must skip it or make it a dead letter.
func (e Entry) Open() (events.Message, error) { return open(e.Subject, e.Data) }

// Received returns the entry with its decoded message m.
func (e Entry) Received(m events.Message) Received {
	return Received{Message: m, Stream: e.Stream, Subject: e.Subject, Seq: e.Seq, Time: e.Time}
}

// Part selects entries of a log.
type Part struct {
	Kind schemas.Kind
	Run  string
	// Iteration is one iteration, or AllIterations.
	Iteration int
	// Log selects all kinds in the log that holds Kind.
	Log bool
	// First and Last are the first and the last position; 0 means no bound.
	First, Last uint64
	// Headers reads the headers only, without the bytes.
	Headers bool
	// Follow waits for more entries at the end of the log, until the context ends.
	Follow bool
}

// Scan calls f with the entries that p selects, in the order of the log. It leaves no gaps, even when the server restarts or the
// connection is lost. An error of f ends the scan and is returned, except that ErrStop is returned as nil.
func (c *Conn) Scan(ctx context.Context, p Part, f func(Entry) error) error {
	kinds := []schemas.Kind{p.Kind}
	if p.Log {
		kinds = kindsOf(LogOf(p.Kind))
	}
	s := scan{
		run: p.Run, stream: StreamName(p.Kind, p.Run), from: p.First, last: p.Last, ids: p.Headers, follow: p.Follow,
	}
	for _, kind := range kinds {
		s.subjects = append(s.subjects, subjectOf(kind, p.Run, p.Iteration))
	}
	return c.scan(ctx, s, f)
}

// Newest returns the newest entry of a kind in a run and iteration (or AllIterations), or ErrNotFound.
func (c *Conn) Newest(ctx context.Context, kind schemas.Kind, run string, iteration int) (Entry, error) {
	stream, err := c.stream(ctx, kind, run)
	if err != nil {
		return Entry{}, err
	}
	subject := subjectOf(kind, run, iteration)
	raw, err := ask(ctx, c, "read "+subject, func(ctx context.Context) (*jetstream.RawStreamMsg, error) {
		return stream.GetLastMsgForSubject(ctx, subject)
	})
	return entryOf(stream, raw, err, fmt.Sprintf("%s in run %s", kind, run))
}

// At returns the entry at a position of a run's log, or ErrNotFound.
func (c *Conn) At(ctx context.Context, kind schemas.Kind, run string, seq uint64) (Entry, error) {
	stream, err := c.stream(ctx, kind, run)
	if err != nil {
		return Entry{}, err
	}
	raw, err := ask(ctx, c, "read "+StreamName(kind, run), func(ctx context.Context) (*jetstream.RawStreamMsg, error) {
		return stream.GetMsg(ctx, seq)
	})
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

// stream opens the stream that holds a kind of a run. It returns ErrNotFound when the server has none.
func (c *Conn) stream(ctx context.Context, kind schemas.Kind, run string) (jetstream.Stream, error) {
	name := StreamName(kind, run)
	stream, err := ask(ctx, c, "open "+name, func(ctx context.Context) (jetstream.Stream, error) { return c.js.Stream(ctx, name) })
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, noRun(run)
	}
	if err != nil {
		return nil, fmt.Errorf("streams: stream %s: %w", name, err)
	}
	return stream, nil
}

// info returns the state of a stream with its counts of the matching subjects; an empty pattern counts none.
func (c *Conn) info(ctx context.Context, stream jetstream.Stream, subjects string) (*jetstream.StreamInfo, error) {
	var options []jetstream.StreamInfoOpt
	if subjects != "" {
		options = append(options, jetstream.WithSubjectFilter(subjects))
	}
	what := "read the state of " + stream.CachedInfo().Config.Name
	return ask(ctx, c, what, func(ctx context.Context) (*jetstream.StreamInfo, error) { return stream.Info(ctx, options...) })
}

// State describes what a log holds of a kind.
type State struct {
	// First is the lowest position that the log still holds.
	First uint64
	// Bytes is the size of the log, and Limit its maximum size.
	Bytes, Limit uint64
	// Messages is the number of messages by iteration.
	Messages map[uint32]uint64
}

// State returns what the log of a kind holds of a run.
func (c *Conn) State(ctx context.Context, kind schemas.Kind, run string) (State, error) {
	stream, err := c.stream(ctx, kind, run)
	if err != nil {
		return State{}, err
	}
	info, err := c.info(ctx, stream, schemas.RunSubjects(kind, run))
	if err != nil {
		return State{}, fmt.Errorf("streams: state of %s: %w", StreamName(kind, run), err)
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

// Store stores entries in the log of a kind, each once under its Key, in the given order.
func (c *Conn) Store(ctx context.Context, kind schemas.Kind, entries ...Entry) error {
	msgs := make([]*nats.Msg, len(entries))
	for i, e := range entries {
		msgs[i] = &nats.Msg{Subject: e.Subject, Header: e.Header, Data: e.Data}
	}
	return c.send(ctx, kind, msgs)
}

// Remove deletes entries by position. Only the log of dead letters allows it. Positions without an entry are ignored.
func (c *Conn) Remove(ctx context.Context, kind schemas.Kind, run string, seqs ...uint64) error {
	if len(seqs) == 0 {
		return nil
	}
	stream, err := c.stream(ctx, kind, run)
	if err != nil {
		return err
	}
	for _, seq := range seqs {
		err := c.do(ctx, fmt.Sprintf("remove %s at %d", kind, seq), func(ctx context.Context) error {
			return stream.DeleteMsg(ctx, seq)
		})
		if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
			return fmt.Errorf("streams: remove %s at %d: %w", kind, seq, err)
		}
	}
	return nil
}

// Purge removes the entries of a kind and iteration from a run's log, and returns how many it removed.
func (c *Conn) Purge(ctx context.Context, kind schemas.Kind, run string, iteration uint32) (uint64, error) {
	return c.purge(ctx, kind, run, schemas.Subject(kind, run, iteration))
}

// Reader is a stage's position in a log that it reads.
type Reader struct {
	Stage string
	// Source is the run that the log belongs to, when a replay reads another run's log; empty for the stage's own run.
	Source string
	// Unread counts the messages that no worker has received, Unanswered those that a worker has received and not settled.
	Unread, Unanswered int
	// Settled is the position up to which the stage has acknowledged everything. Floor is the same, but when the log has nothing
	// more for the stage it is the last position that was delivered.
	Settled, Floor uint64
}

// Readers lists the stages of a run that read a kind, by name. A stage of a replay appears twice: it reads its source's log, and
// its own run's log for redriven dead letters.
func (c *Conn) Readers(ctx context.Context, kind schemas.Kind, run string) ([]Reader, error) {
	infos, err := c.consumers(ctx, kind, run)
	if err != nil {
		return nil, err
	}
	var readers []Reader
	add := func(info *jetstream.ConsumerInfo, stage, source string) {
		readers = append(readers, Reader{
			stage, source, int(info.NumPending), info.NumAckPending, info.AckFloor.Stream, floorOf(info),
		})
	}
	for _, info := range infos {
		add(info, info.Name, "")
		source, err := c.inSource(ctx, kind, run, info)
		if err != nil {
			return nil, err
		}
		if source != nil {
			add(source, info.Name, sourceOf(info))
		}
	}
	return readers, nil
}

// floorOf returns a Reader's Floor.
func floorOf(info *jetstream.ConsumerInfo) uint64 {
	if info.NumPending == 0 && info.NumAckPending == 0 {
		return max(info.AckFloor.Stream, info.Delivered.Stream)
	}
	return info.AckFloor.Stream
}

// SettleUpTo makes a stage of a restored run begin after the position seq of the log. The log may not hold that position yet.
func (c *Conn) SettleUpTo(ctx context.Context, stage string, kind schemas.Kind, run string, seq uint64) error {
	config := Stage{Name: stage, In: kind, Run: run}.consumer(c.limits)
	config.DeliverPolicy, config.OptStartSeq = jetstream.DeliverByStartSequencePolicy, seq+1
	err := c.do(ctx, "create consumer "+stage, func(ctx context.Context) error {
		_, err := c.js.CreateConsumer(ctx, StreamName(kind, run), config)
		return err
	})
	if err != nil && !errors.Is(err, jetstream.ErrConsumerExists) {
		return fmt.Errorf("streams: settle %s of run %s: %w", stage, run, err)
	}
	return nil
}

// lastSeq returns the last position of a stream; 0 when nothing was ever stored.
func (c *Conn) lastSeq(ctx context.Context, stream jetstream.Stream) (uint64, error) {
	info, err := c.info(ctx, stream, "")
	if err != nil {
		return 0, err
	}
	return info.State.LastSeq, nil
}

// holeSubject takes the place of the iteration in the subject of placeholders, which fill empty positions during a restore.
const holeSubject = "hole"

// StoreAt stores entries, which must be ordered by position, each at its own position. It fills the positions in between with
// placeholders; call FillHoles when the log is complete. It skips entries that an interrupted call has already stored.
func (c *Conn) StoreAt(ctx context.Context, kind schemas.Kind, run string, entries ...Entry) error {
	failed := func(err error) error { return fmt.Errorf("streams: restore %s: %w", StreamName(kind, run), err) }
	stream, err := c.stream(ctx, kind, run)
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		last, err := c.lastSeq(ctx, stream)
		if err != nil {
			return failed(err)
		}
		there := 0
		for there < len(entries) && entries[there].Seq <= last {
			there++
		}
		if there > 0 {
			e, err := c.At(ctx, kind, run, entries[there-1].Seq)
			if err != nil || e.Key() != entries[there-1].Key() {
				return failed(errors.Join(err, fmt.Errorf("position %d holds another message: delete the run first", entries[there-1].Seq)))
			}
		}
		entries = entries[there:]
		if len(entries) == 0 {
			return nil
		}
		if last == 0 && entries[0].Seq > 1 { // an empty log: let it begin at the first entry
			err := c.do(ctx, "begin "+StreamName(kind, run), func(ctx context.Context) error {
				return stream.Purge(ctx, jetstream.WithPurgeSequence(entries[0].Seq))
			})
			if err != nil {
				return failed(err)
			}
			continue
		}
		err = c.storeFrom(ctx, kind, run, last, entries)
		if err == nil {
			continue // to check that everything is stored
		}
		if meaningOf(err) == permanent {
			return failed(explain(err))
		}
		if !pause(ctx, c.askPause(try)) {
			return ctx.Err()
		}
	}
}

// storeFrom stores entries after the last position of a log, with a placeholder at each position between them.
func (c *Conn) storeFrom(ctx context.Context, kind schemas.Kind, run string, last uint64, entries []Entry) error {
	var msgs []*nats.Msg
	flush := func() error {
		_, err := c.sendOnce(ctx, StreamName(kind, run), msgs)
		msgs = msgs[:0]
		return err
	}
	add := func(m *nats.Msg) error {
		m.Header.Set(jetstream.ExpectedLastSeqHeader, strconv.FormatUint(last, 10))
		msgs = append(msgs, m)
		if last++; len(msgs) < window {
			return nil
		}
		return flush()
	}
	hole := fmt.Sprintf("ldalign.%s.%s.%s", LogOf(kind), run, holeSubject)
	for _, e := range entries {
		for last+1 < e.Seq {
			if err := add(&nats.Msg{Subject: hole, Header: nats.Header{}}); err != nil {
				return err
			}
		}
		header := nats.Header{}
		maps.Copy(header, e.Header)
		if err := add(&nats.Msg{Subject: e.Subject, Header: header, Data: e.Data}); err != nil {
			return err
		}
	}
	return flush()
}

// FillHoles ends a restore: it removes the placeholders that StoreAt has stored, which leaves their positions empty.
func (c *Conn) FillHoles(ctx context.Context, kind schemas.Kind, run string) error {
	_, err := c.purge(ctx, kind, run, fmt.Sprintf("ldalign.%s.%s.%s", LogOf(kind), run, holeSubject))
	return err
}
