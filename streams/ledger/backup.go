package ledger

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
)

// savedMessage is a message as a backup holds it, one a line.
type savedMessage struct {
	Seq     uint64              `json:"seq"`
	Subject string              `json:"subject"`
	Time    time.Time           `json:"time"`
	Header  map[string][]string `json:"header"`
	Data    []byte              `json:"data"`
}

// Progress says how far a stage of a run had come with the messages of a kind: a part of a backup.
type Progress struct {
	Stage string       `json:"stage"`
	Kind  schemas.Kind `json:"kind"`
	// Settled is the position up to which everything is acknowledged.
	Settled uint64 `json:"settled"`
}

// ProgressOf lists how far the stages of a run are. Read before the messages, it never claims what they do not show.
func ProgressOf(ctx context.Context, conn *streams.Conn, run string) ([]Progress, error) {
	var out []Progress
	for _, kind := range append([]schemas.Kind{schemas.Checkpoints}, schemas.PairKinds()...) {
		readers, err := conn.Readers(ctx, kind, run)
		if err != nil {
			return nil, fmt.Errorf("streams: progress of run %s: %w", run, err)
		}
		for _, r := range readers {
			out = append(out, Progress{r.Stage, kind, r.Settled})
		}
	}
	return out, nil
}

// Save writes a run's messages of a kind, in the order of the log, as JSON lines that Load reads. It returns their number.
func Save(
	ctx context.Context, conn *streams.Conn, kind schemas.Kind, run string, w io.Writer, onMessage func(),
) (int, error) {
	out := bufio.NewWriter(w)
	encode := json.NewEncoder(out)
	n := 0
	all := streams.Part{Kind: kind, Run: run, Iteration: streams.AllIterations}
	err := conn.Scan(ctx, all, func(e streams.Entry) error {
		n++
		onMessage()
		return encode.Encode(savedMessage{e.Seq, e.Subject, e.Time.UTC(), e.Header, e.Data})
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
func Load(
	ctx context.Context, conn *streams.Conn, kind schemas.Kind, run string, r io.Reader, moved Moved, onMessage func(),
) error {
	failed := func(err error) error { return fmt.Errorf("streams: load %s of run %s: %w", kind, run, err) }
	var ids []string // message ids in the order of the file
	var from []uint64
	var before uint64
	var batch []streams.Entry
	store := func() error {
		err := conn.Store(ctx, kind, batch...)
		batch = batch[:0]
		return err
	}
	have, err := firsts(ctx, conn, kind, run)
	if err != nil {
		return failed(err)
	}
	err = eachSaved(r, func(s savedMessage) error {
		if err := s.check(kind, run, before); err != nil {
			return err
		}
		e, err := s.moved(kind, moved)
		if err != nil {
			return err
		}
		id := e.Key()
		ids, from, before = append(ids, id), append(from, s.Seq), s.Seq
		if _, stored := have[id]; !stored {
			have[id], batch = 0, append(batch, e)
		}
		onMessage()
		if len(batch) < loadBatch {
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
	now, err := firsts(ctx, conn, kind, run)
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

// loadBatch is how many messages are stored together.
const loadBatch = 256

// firsts are the positions of a run's messages of a kind by their keys; of a message that was stored again, the first.
func firsts(ctx context.Context, conn *streams.Conn, kind schemas.Kind, run string) (map[string]uint64, error) {
	at := map[string]uint64{}
	all := streams.Part{Kind: kind, Run: run, Iteration: streams.AllIterations, Headers: true}
	err := conn.Scan(ctx, all, func(e streams.Entry) error {
		if at[e.Key()] == 0 {
			at[e.Key()] = e.Seq
		}
		return nil
	})
	return at, err
}

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

// tidy drops header names without a value, which a header cannot be asked for.
func (s savedMessage) tidy() {
	maps.DeleteFunc(s.Header, func(_ string, values []string) bool { return len(values) == 0 })
}

// check tells whether the message can be one of a run's, behind that at another place.
func (s savedMessage) check(kind schemas.Kind, run string, before uint64) error {
	k, of, _, err := schemas.ParseSubject(s.Subject)
	if err != nil || k != kind || of != run || s.entry().Key() == "" || s.Seq <= before {
		return fmt.Errorf("%w: a message behind %d is on %q at %d", ErrBackup, before, s.Subject, s.Seq)
	}
	return nil
}

// entry is the message as the log held it.
func (s savedMessage) entry() streams.Entry {
	return streams.Entry{Subject: s.Subject, Seq: s.Seq, Time: s.Time, Header: s.Header, Data: s.Data}
}

// moved is the message with the positions that it names where they are now.
func (s savedMessage) moved(kind schemas.Kind, moved Moved) (streams.Entry, error) {
	msg := s.entry().Restored()
	if from, seq, ok := msg.Parent(); ok {
		msg.SetParent(from, moved.To(from, seq))
	}
	if kind != schemas.DeadLetters {
		return msg, nil
	}
	m, err := msg.Open()
	if err != nil {
		return msg, fmt.Errorf("%w: %w", ErrBackup, err)
	}
	letter := m.(*events.DeadLetter)
	if of, _, _, err := schemas.ParseSubject(letter.GetSubject()); err == nil {
		letter.Sequence = moved.To(of, letter.GetSequence())
	}
	// A new id, so that a new letter of another message at the old place is not taken for this one.
	of, err := streams.EntryOf(kind, letter, msg.Mark())
	if err != nil {
		return msg, fmt.Errorf("%w: %w", ErrBackup, err)
	}
	return msg.As(of), nil
}
