package streams

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

const (
	// MaxMessage is the maximum size of a message in bytes. Larger data goes to the checkpoint store.
	MaxMessage = 256 << 10
	// maxLetter is the maximum size of a dead letter in bytes. It leaves room for the largest original.
	maxLetter = 2 * MaxMessage
)

// newMessage returns an empty message of a kind, or nil for an unknown kind.
func newMessage(kind schemas.Kind) events.Message {
	switch kind {
	case schemas.Prompts:
		return new(events.Prompt)
	case schemas.Pairs:
		return new(events.Pair)
	case schemas.Encoded:
		return new(events.Encoded)
	case schemas.Scored:
		return new(events.Scored)
	case schemas.Checkpoints:
		return new(events.Checkpoint)
	case schemas.DeadLetters:
		return new(events.DeadLetter)
	case schemas.Results:
		return new(events.Result)
	case schemas.Control:
		return new(events.Control)
	}
	return nil
}

// seal returns the stored form of a message: subject, id and bytes.
func seal(kind schemas.Kind, m events.Message) (*nats.Msg, error) {
	like := newMessage(kind)
	switch {
	case like == nil:
		return nil, fmt.Errorf("unknown kind %q", kind)
	case m == nil || like.ProtoReflect().Descriptor() != m.ProtoReflect().Descriptor():
		return nil, fmt.Errorf("a %T does not belong to %s", m, kind)
	case m.GetSchema() != events.Version:
		return nil, fmt.Errorf("%s %s: schema is %d, want %d", kind, m.ID(), m.GetSchema(), events.Version)
	case !schemas.ValidRun(m.GetRun()):
		return nil, fmt.Errorf("%s %s: %q is not a valid run name", kind, m.ID(), m.GetRun())
	case m.ID() == "":
		return nil, fmt.Errorf("%s of run %s, iteration %d: no id", kind, m.GetRun(), m.GetIteration())
	}
	data, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", kind, m.ID(), err)
	}
	limit := MaxMessage
	if kind == schemas.DeadLetters {
		limit = maxLetter
	}
	if len(data) > limit {
		return nil, fmt.Errorf("%w: %s %s is %d bytes, the limit is %d", ErrTooLarge, kind, m.ID(), len(data), limit)
	}
	return envelope(schemas.Subject(kind, m.GetRun(), m.GetIteration()), messageID(kind, m.ID()), data), nil
}

func envelope(subject, id string, data []byte) *nats.Msg {
	return &nats.Msg{Subject: subject, Header: nats.Header{headerID: {id}}, Data: data}
}

// ErrNewer: a newer program wrote a message, with a schema version that this program does not read. Newer programs can.
var ErrNewer = errors.New("streams: a newer program wrote the message")

// open is the inverse of seal. A *schemas.Reject says why the bytes are not a message of their subject. A *schemas.Unavailable
// that wraps ErrNewer says that this program is too old for the message.
func open(subject string, data []byte) (events.Message, error) {
	kind, run, iteration, err := schemas.ParseSubject(subject)
	if err != nil {
		return nil, &schemas.Reject{Reason: schemas.ReasonDecode, Err: err}
	}
	m := newMessage(kind)
	if err := proto.Unmarshal(data, m); err != nil {
		return nil, &schemas.Reject{Reason: schemas.ReasonDecode, Err: fmt.Errorf("not a message of %s: %w", kind, err)}
	}
	switch version := m.GetSchema(); {
	case version == 0:
		err = fmt.Errorf("not a message of %s: no schema version", kind)
	case version > events.Version:
		return nil, &schemas.Unavailable{Err: fmt.Errorf(
			"%w: its schema version is %d, this program reads up to %d: upgrade this program", ErrNewer, version, events.Version)}
	case m.GetRun() != run || m.GetIteration() != iteration:
		err = fmt.Errorf("message of run %q, iteration %d on subject %s", m.GetRun(), m.GetIteration(), subject)
	case m.ID() == "":
		err = fmt.Errorf("message of %s without id", kind)
	}
	if err != nil {
		return nil, &schemas.Reject{Reason: schemas.ReasonDecode, Err: err}
	}
	if err := events.Check(m); err != nil {
		return nil, &schemas.Reject{Reason: schemas.ReasonInvalid, Err: err}
	}
	return m, nil
}

const (
	headerID = nats.MsgIdHdr
	// headerRedriven holds the number of the dead letter that a redriven message was taken from.
	headerRedriven = "Ldalign-Redriven"
	// headerParent names the message that a stage made this one from; see parent.
	headerParent = "Ldalign-Parent"
	// headerLibtorch holds the version of libtorch that a stage computed the message with.
	headerLibtorch = "Ldalign-Libtorch"
	// redriveMark separates the id from the mark in the message id of a redriven message.
	redriveMark = "#"
)

// parent formats a message's position in the log for headerParent: <kind>:<position>.
func parent(kind schemas.Kind, seq uint64) string {
	return string(kind) + ":" + strconv.FormatUint(seq, 10)
}

// parentOf is the inverse of parent. ok is false when the header does not name a message of a pair.
func parentOf(header nats.Header) (kind schemas.Kind, seq uint64, ok bool) {
	name, number, _ := strings.Cut(header.Get(headerParent), ":")
	seq, err := strconv.ParseUint(number, 10, 64)
	return schemas.Kind(name), seq, err == nil && schemas.Kind(name).CarriesPair()
}

// messageID is the key by which a stream removes duplicates: <kind>:<id>.
func messageID(kind schemas.Kind, id string) string { return string(kind) + ":" + id }

// idOf returns the id in a messageID, without the mark of a redriven message. It is empty when this program did not write the
// header.
func idOf(header nats.Header) string {
	kind, id, _ := strings.Cut(header.Get(headerID), ":")
	if newMessage(schemas.Kind(kind)) == nil {
		return ""
	}
	id, _, _ = strings.Cut(id, redriveMark)
	return id
}
