package ledger

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"time"

	"github.com/ldalign/ldalign/schemas"
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

// Save writes the messages in a log of a run (streams.Logs), in its order, as JSON lines that Load reads. It returns their
// number.
func Save(
	ctx context.Context, conn *streams.Conn, log schemas.Kind, run string, w io.Writer, onMessage func(),
) (int, error) {
	out := bufio.NewWriter(w)
	encode := json.NewEncoder(out)
	n := 0
	all := streams.Part{Kind: log, Run: run, Iteration: streams.AllIterations, Log: true}
	err := conn.Scan(ctx, all, func(e streams.Entry) error {
		n++
		onMessage()
		return encode.Encode(savedMessage{e.Seq, e.Subject, e.Time.UTC(), e.Header, e.Data})
	})
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		return n, fmt.Errorf("streams: save %s of run %s: %w", log, run, err)
	}
	return n, nil
}

// Load stores what Save has written, each message at its place and under its id, so that whatever names a place holds: another
// run's source, a trainer's cursor, a dead letter's number. Of a message that stood twice in the log the first copy is
// stored. Interrupted, it goes on when it is called again. ErrBackup when the bytes are not of that run and log.
func Load(
	ctx context.Context, conn *streams.Conn, log schemas.Kind, run string, r io.Reader, onMessage func(),
) error {
	failed := func(err error) error { return fmt.Errorf("streams: load %s of run %s: %w", log, run, err) }
	stored := map[string]bool{}
	var before uint64
	var batch []streams.Entry
	store := func() error {
		err := conn.StoreAt(ctx, log, run, batch...)
		batch = batch[:0]
		return err
	}
	err := eachSaved(r, func(s savedMessage) error {
		if err := s.check(log, run, before); err != nil {
			return err
		}
		e := s.entry()
		if before = s.Seq; !stored[e.Key()] {
			stored[e.Key()], batch = true, append(batch, e)
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
	if err == nil {
		err = conn.FillHoles(ctx, log, run)
	}
	if err != nil {
		return failed(err)
	}
	return nil
}

// loadBatch is how many messages are stored together.
const loadBatch = 256

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
func (s savedMessage) check(log schemas.Kind, run string, before uint64) error {
	k, of, _, err := schemas.ParseSubject(s.Subject)
	if err != nil || streams.LogOf(k) != log || of != run || s.entry().Key() == "" || s.Seq <= before {
		return fmt.Errorf("%w: a message behind %d is on %q at %d", ErrBackup, before, s.Subject, s.Seq)
	}
	return nil
}

// entry is the message as the log held it.
func (s savedMessage) entry() streams.Entry {
	return streams.Entry{Subject: s.Subject, Seq: s.Seq, Time: s.Time, Header: s.Header, Data: s.Data}
}
