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

// savedMessage is a message in a backup, which has one per line.
type savedMessage struct {
	Seq     uint64              `json:"seq"`
	Subject string              `json:"subject"`
	Time    time.Time           `json:"time"`
	Header  map[string][]string `json:"header"`
	Data    []byte              `json:"data"`
}

// Progress is how far a stage of a run has processed the messages of a kind. A backup holds it.
type Progress struct {
	Stage string       `json:"stage"`
	Kind  schemas.Kind `json:"kind"`
	// Settled is the position up to which everything is acknowledged.
	Settled uint64 `json:"settled"`
}

// ProgressOf lists how far the stages of a run are. A backup calls it before it saves the messages, so that the progress never
// goes beyond the saved messages.
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

// Save writes the messages in a log of a run (streams.Logs), in the log's order, as JSON lines that Load reads. It calls
// onMessage for each, and returns their number.
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

// Load stores the messages that Save has written, each at its old position and under its id. So everything that names a position
// stays valid: another run's source, a trainer's cursor, a dead letter's number. Of a message that was in the log twice, Load
// stores the first copy. It calls onMessage for each message that it reads. After an interruption, call it again to continue. It
// returns ErrBackup when the file is not a backup of that run and log.
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

// ErrBackup: a backup's file is damaged, or belongs to another run or log.
var ErrBackup = errors.New("streams: bad backup")

// eachSaved calls f with the messages of a file that Save has written. It returns ErrBackup when it cannot read the file as such.
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

// tidy removes header names without a value.
func (s savedMessage) tidy() {
	maps.DeleteFunc(s.Header, func(_ string, values []string) bool { return len(values) == 0 })
}

// check returns an error unless the message belongs to the run and log, and comes after position before.
func (s savedMessage) check(log schemas.Kind, run string, before uint64) error {
	k, of, _, err := schemas.ParseSubject(s.Subject)
	if err != nil || streams.LogOf(k) != log || of != run || s.entry().Key() == "" || s.Seq <= before {
		return fmt.Errorf("%w: the message after position %d has subject %q and position %d", ErrBackup, before, s.Subject, s.Seq)
	}
	return nil
}

// entry returns the message as the log held it.
func (s savedMessage) entry() streams.Entry {
	return streams.Entry{Subject: s.Subject, Seq: s.Seq, Time: s.Time, Header: s.Header, Data: s.Data}
}
