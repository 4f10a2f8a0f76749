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
	msg := envelope(schemas.Subject(kind, run, iteration), messageID(kind, id), data)
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
	_, mark, _ := strings.Cut(e.Key(), redriveMark)
	return mark
}

// Key is what the log stores an entry once by.
func (e Entry) Key() string { return e.Header.Get(headerID) }

// Parent is the message that a stage made this one from: its kind and position. ok is false when the entry does not name one.
func (e Entry) Parent() (kind schemas.Kind, seq uint64, ok bool) { return parentOf(e.Header) }

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
	// Log selects all kinds of the log that holds Kind.
	Log bool
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

// Newest is the newest entry of a kind in a run and iteration (or AllIterations); ErrNotFound when there is none.
func (c *Conn) Newest(ctx context.Context, kind schemas.Kind, run string, iteration int) (Entry, error) {
	stream, err := c.stream(ctx, kind, run)
	if err != nil {
		return Entry{}, err
	}
	raw, err := stream.GetLastMsgForSubject(ctx, subjectOf(kind, run, iteration))
	return entryOf(stream, raw, err, fmt.Sprintf("%s in run %s", kind, run))
}

// At is the entry at a position of a run's log; ErrNotFound when there is none.
func (c *Conn) At(ctx context.Context, kind schemas.Kind, run string, seq uint64) (Entry, error) {
	stream, err := c.stream(ctx, kind, run)
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

// stream opens the stream that holds a kind of a run; ErrNotFound when the server has none.
func (c *Conn) stream(ctx context.Context, kind schemas.Kind, run string) (jetstream.Stream, error) {
	stream, err := c.js.Stream(ctx, StreamName(kind, run))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, noRun(run)
	}
	if err != nil {
		return nil, fmt.Errorf("streams: stream %s: %w", StreamName(kind, run), err)
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
	stream, err := c.stream(ctx, kind, run)
	if err != nil {
		return State{}, err
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(schemas.RunSubjects(kind, run)))
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

// Store stores entries on the log of a kind, each once under its Key, in the given order.
func (c *Conn) Store(ctx context.Context, kind schemas.Kind, entries ...Entry) error {
	msgs := make([]*nats.Msg, len(entries))
	for i, e := range entries {
		msgs[i] = &nats.Msg{Subject: e.Subject, Header: e.Header, Data: e.Data}
	}
	return c.send(ctx, kind, msgs)
}

// Remove removes entries of a log that allows it: that of dead letters. Those that are not there are passed over.
func (c *Conn) Remove(ctx context.Context, kind schemas.Kind, run string, seqs ...uint64) error {
	if len(seqs) == 0 {
		return nil
	}
	stream, err := c.stream(ctx, kind, run)
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
	return c.purge(ctx, kind, run, schemas.Subject(kind, run, iteration))
}

// Reader is a stage's place in a log of the kind that it reads.
type Reader struct {
	Stage string
	// Source is the run in whose log that is, for the stage of a replay; empty for the stage's own run.
	Source string
	// Unread and Unanswered count the messages that no worker has had, and that some worker has and has not settled.
	Unread, Unanswered int
	// Settled is the position up to which everything is settled, by acknowledgements alone, and Floor the same where the log has
	// nothing more for the stage.
	Settled, Floor uint64
}

// Readers lists the stages of a run that read a kind, by name. The stage of a replay is there twice: it reads the log of
// its source and, for redriven dead letters, that of its own run.
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

// floorOf is the position up to which a stage has acknowledged everything.
func floorOf(info *jetstream.ConsumerInfo) uint64 {
	if info.NumPending == 0 && info.NumAckPending == 0 {
		return max(info.AckFloor.Stream, info.Delivered.Stream)
	}
	return info.AckFloor.Stream
}

// SettleUpTo makes a stage of a run that is restored begin behind a position of the log, which may not hold it yet.
func (c *Conn) SettleUpTo(ctx context.Context, stage string, kind schemas.Kind, run string, seq uint64) error {
	config := Stage{Name: stage, In: kind, Run: run}.consumer(c.limits)
	config.DeliverPolicy, config.OptStartSeq = jetstream.DeliverByStartSequencePolicy, seq+1
	_, err := c.js.CreateConsumer(ctx, StreamName(kind, run), config)
	if err != nil && !errors.Is(err, jetstream.ErrConsumerExists) {
		return fmt.Errorf("streams: settle %s of run %s: %w", stage, run, err)
	}
	return nil
}

// lastSeq is the last position of a stream; 0 when nothing was ever stored.
func (c *Conn) lastSeq(ctx context.Context, stream jetstream.Stream) (uint64, error) {
	info, err := stream.Info(ctx)
	if err != nil {
		return 0, err
	}
	return info.State.LastSeq, nil
}

// holeSubject is the iteration of the messages that stand for removed ones while a log is restored.
const holeSubject = "hole"

// StoreAt stores entries, which stand in the order of their positions, each at its position. The positions in between stay empty;
// FillHoles says so to the log when it is whole. What the log has already, by an interrupted call, is passed over.
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
		if last == 0 && entries[0].Seq > 1 { // nothing was stored before: the log begins there
			if err := stream.Purge(ctx, jetstream.WithPurgeSequence(entries[0].Seq)); err != nil {
				return failed(err)
			}
			continue
		}
		err = c.storeFrom(ctx, kind, run, last, entries)
		if err == nil {
			continue // and see that all is there
		}
		api := new(jetstream.APIError)
		raced := errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == codeWrongLast)
		if !passing(err) && !raced || try == maxRestoreTries {
			return failed(explain(err))
		}
		if !pause(ctx, c.limits.backoff(try)) {
			return ctx.Err()
		}
	}
}

// maxRestoreTries bounds how often StoreAt goes on behind what was stored although something failed.
const maxRestoreTries = 20

// storeFrom stores entries, and a placeholder at each position between them, behind the last position of a log.
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

// FillHoles ends a restore: it removes what StoreAt has put at empty positions.
func (c *Conn) FillHoles(ctx context.Context, kind schemas.Kind, run string) error {
	_, err := c.purge(ctx, kind, run, fmt.Sprintf("ldalign.%s.%s.%s", LogOf(kind), run, holeSubject))
	return err
}
