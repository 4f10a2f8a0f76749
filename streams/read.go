package streams

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// ErrStop ends a reader without an error when the reader's function returns it.
var ErrStop = errors.New("streams: stop reading")

// AllIterations selects all iterations of a run where an iteration is expected.
const AllIterations = -1

// Received is a message with its position in the log.
type Received struct {
	Message events.Message
	Stream  string
	Subject string
	// Seq is the message's position in its stream, from 1. The positions of other subjects lie in between.
	Seq uint64
	// Time at which the server stored it.
	Time time.Time
}

// Read calls f with every message of a run and iteration (or AllIterations) that the log holds now, from position from on, in
// the order of the log and without gaps. It logs and skips entries that cannot be decoded, except that an entry of a newer
// program ends the reading with ErrNewer. An error of f ends the reading and is returned, except that ErrStop is returned as
// nil.
func (c *Conn) Read(ctx context.Context, kind schemas.Kind, run string, iteration int, from uint64,
	f func(Received) error,
) error {
	s := scan{run: run, stream: StreamName(kind, run), subjects: []string{subjectOf(kind, run, iteration)}, from: from}
	return c.scan(ctx, s, c.decoded(f))
}

// Follow is like Read, but waits for more messages at the end of the log until ctx ends. It then returns ctx's error.
func (c *Conn) Follow(ctx context.Context, kind schemas.Kind, run string, iteration int, from uint64,
	f func(Received) error,
) error {
	s := scan{run: run, stream: StreamName(kind, run), subjects: []string{subjectOf(kind, run, iteration)}, from: from, follow: true}
	return c.scan(ctx, s, c.decoded(f))
}

// Last returns the newest message of a kind in a run, or ErrNotFound.
func (c *Conn) Last(ctx context.Context, kind schemas.Kind, run string) (Received, error) {
	e, err := c.Newest(ctx, kind, run, AllIterations)
	if err != nil {
		return Received{}, err
	}
	m, err := e.Open()
	if err != nil {
		return Received{}, fmt.Errorf("streams: %s at %d: %w", e.Stream, e.Seq, err)
	}
	return e.Received(m), nil
}

// Line is a message as `ldalign tail` prints it.
type Line struct {
	Stream  string    `json:"stream"`
	Subject string    `json:"subject"`
	Seq     uint64    `json:"seq"`
	Time    time.Time `json:"time"`
	// Libtorch is the version of libtorch that computed the message; empty for a message that needed none.
	Libtorch string `json:"libtorch,omitempty"`
	// JSON is the message as compact protojson, or {"error", "bytes"} when it cannot be decoded.
	JSON json.RawMessage `json:"message"`
}

// Tail calls f with every message on the matching subjects, until ctx ends or f returns ErrStop. subject is a kind's name
// ("scored") or a NATS wildcard ("ldalign.*.run1.>"). Tail begins with the messages stored since the given time, or with all
// when it is zero, and then follows what arrives. Messages of one stream come in order. Calls of f do not overlap.
func (c *Conn) Tail(ctx context.Context, subject string, since time.Time, f func(Line) error) error {
	if kind := schemas.Kind(subject); slices.Contains(schemas.Kinds(), kind) {
		subject = schemas.KindSubjects(kind)
	}
	narrowed := map[schemas.Kind]string{}
	for _, kind := range schemas.Kinds() {
		if pattern, ok := narrow(subject, kind); ok {
			narrowed[kind] = pattern
		}
	}
	if len(narrowed) == 0 {
		return fmt.Errorf("%w: subject %q matches no stream: want a kind (%v) or a pattern such as ldalign.scored.>",
			ErrNotFound, subject, schemas.Kinds())
	}
	lines := make(chan Line)
	group, scanning := errgroup.WithContext(ctx)
	tail := func(run string, log schemas.Kind) {
		s := scan{run: run, stream: StreamName(log, run), since: since, follow: true}
		for _, kind := range kindsOf(log) {
			if pattern, ok := narrowed[kind]; ok {
				if pattern, ok = inRun(pattern, run); ok {
					s.subjects = append(s.subjects, pattern)
				}
			}
		}
		if len(s.subjects) == 0 {
			return
		}
		group.Go(func() error {
			err := c.scan(scanning, s, func(e Entry) error {
				select {
				case lines <- lineOf(e):
					return nil
				case <-scanning.Done():
					return scanning.Err()
				}
			})
			if errors.Is(err, ErrNotFound) {
				return nil // the run was deleted
			}
			return err
		})
	}
	group.Go(func() error {
		known := map[string]bool{}
		for {
			runs, err := c.Runs(scanning)
			if err != nil {
				return err
			}
			for _, run := range runs {
				for _, log := range Logs() {
					if !known[run] {
						tail(run, log)
					}
				}
				known[run] = true
			}
			if !pause(scanning, lookEvery) {
				return scanning.Err()
			}
		}
	})
	group.Go(func() error {
		for {
			select {
			case line := <-lines:
				if err := f(line); err != nil {
					return err
				}
			case <-scanning.Done():
				return scanning.Err()
			}
		}
	})
	return stopped(group.Wait())
}

// lookEvery is how often Tail looks for runs that were declared meanwhile.
const lookEvery = time.Second

// inRun restricts a pattern of one kind to the subjects of one run. It returns false when none match.
func inRun(pattern, run string) (string, bool) {
	tokens := strings.Split(pattern, ".")
	switch {
	case tokens[2] == ">":
		return strings.Join([]string{tokens[0], tokens[1], run, "*"}, "."), true
	case tokens[2] != "*" && tokens[2] != run || len(tokens) != 4:
		return "", false
	case tokens[3] == ">":
		tokens[3] = "*"
	}
	tokens[2] = run
	return strings.Join(tokens, "."), true
}

// subjectOf returns the subject of one iteration of a run, or the pattern for all iterations.
func subjectOf(kind schemas.Kind, run string, iteration int) string {
	if iteration < 0 {
		return schemas.RunSubjects(kind, run)
	}
	return schemas.Subject(kind, run, uint32(iteration))
}

// narrow restricts a subject pattern to the subjects of one kind. It returns false when none match.
func narrow(pattern string, kind schemas.Kind) (string, bool) {
	tokens := strings.Split(pattern, ".")
	prefix := []string{"ldalign", string(kind)}
	for i, want := range prefix {
		switch {
		case i < len(tokens) && tokens[i] == ">" && i == len(tokens)-1:
			return strings.Join(append(prefix, ">"), "."), true
		case i >= len(tokens) || tokens[i] != "*" && tokens[i] != want:
			return "", false
		}
	}
	if len(tokens) == len(prefix) || slices.Contains(tokens, "") {
		return "", false
	}
	return strings.Join(append(prefix, tokens[len(prefix):]...), "."), true
}

func lineOf(e Entry) Line {
	l := Line{Stream: e.Stream, Subject: e.Subject, Seq: e.Seq, Time: e.Time.UTC(), Libtorch: e.Libtorch()}
	m, err := e.Open()
	if err == nil {
		l.JSON, err = protojson.Marshal(m)
	}
	if err != nil {
		l.JSON, _ = json.Marshal(struct { // two plain fields cannot fail
			Error string `json:"error"`
			Bytes []byte `json:"bytes"`
		}{err.Error(), e.Data})
		return l
	}
	// protojson varies its white space on purpose.
	var compact bytes.Buffer
	if json.Compact(&compact, l.JSON) == nil {
		l.JSON = compact.Bytes()
	}
	return l
}

// decoded returns a function that calls f with the decoded messages and skips those that cannot be decoded.
func (c *Conn) decoded(f func(Received) error) func(Entry) error {
	return func(e Entry) error {
		m, err := e.Open()
		if err != nil {
			return c.PassOver(e, err)
		}
		return f(e.Received(m))
	}
}

// scan says what to read of one stream.
type scan struct {
	run, stream string
	subjects    []string
	// from and last are the first and the last position, since is the earliest time. Zero means no bound.
	from, last uint64
	since      time.Time
	// ids reads the headers only, without the bytes.
	ids bool
	// follow waits for more messages at the end of the log.
	follow bool
}

const (
	scanBatch = 128
	// scanExpiry and scanHeartbeat bound how long a lost server or consumer stays unnoticed: two heartbeats.
	scanExpiry    = 10 * time.Second
	scanHeartbeat = time.Second
)

// errInterrupted: the scan's consumer is lost or has skipped a message. A new consumer continues at the next position.
var errInterrupted = errors.New("interrupted")

// scan calls f with the messages that s selects, in order and without gaps, even when the server restarts or the connection is
// lost.
func (c *Conn) scan(ctx context.Context, s scan, f func(Entry) error) error {
	o := outage{conn: c, what: fmt.Sprintf("read %s from %d", s.stream, s.from)}
	defer o.over()
	for try := 1; ; try++ {
		before := s.from
		err := c.scanOnce(ctx, &s, &o, f)
		if !errors.Is(err, errInterrupted) {
			return stopped(err)
		}
		if broken := c.storeError(); broken != nil {
			return broken
		}
		o.failed(err)
		if s.from != before {
			try = 1
		}
		if !pause(ctx, c.askPause(try)) {
			return ctx.Err()
		}
	}
}

// scanOnce reads through one ephemeral consumer and moves s.from past every message that f has seen.
//
// The consumer is on one server. On a stream with replicas, that server may not have the newest messages yet. So a scan that does
// not follow asks the leader of the stream up to where it has to read.
func (c *Conn) scanOnce(ctx context.Context, s *scan, o *outage, f func(Entry) error) error {
	name := s.stream
	failed := func(err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, jetstream.ErrStreamNotFound):
			return noRun(s.run)
		case errors.Is(err, nats.ErrConnectionClosed), c.nc.IsClosed():
			return fmt.Errorf("streams: read %s: %w", name, err)
		}
		return fmt.Errorf("streams: read %s: %w: %w", name, errInterrupted, err)
	}
	asking, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	stream, err := c.js.Stream(asking, name)
	if err != nil {
		return failed(err)
	}
	var end uint64
	if !s.follow {
		if end, err = s.end(asking, stream); err != nil {
			return failed(err)
		}
		if end < max(s.from, 1) {
			return nil
		}
	}
	consumer, err := stream.CreateConsumer(asking, s.consumer())
	if err != nil {
		return failed(err)
	}
	defer c.discard(consumer)
	if !s.follow && consumer.CachedInfo().NumPending == 0 {
		return failed(errBehind)
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(scanBatch),
		jetstream.PullExpiry(scanExpiry), jetstream.PullHeartbeat(scanHeartbeat))
	if err != nil {
		return failed(err)
	}
	defer messages.Stop()
	o.over()
	next := func() (jetstream.Msg, error) {
		waiting, cancel := ctx, context.CancelFunc(func() {})
		if !s.follow { // what it waits for may have been removed
			waiting, cancel = context.WithTimeout(ctx, scanExpiry)
		}
		defer cancel()
		return messages.Next(jetstream.NextContext(waiting))
	}
	for delivered := uint64(1); ; delivered++ {
		msg, err := next()
		if err != nil {
			return failed(err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return failed(err)
		}
		if meta.Sequence.Consumer != delivered {
			return failed(fmt.Errorf("received message %d, expected %d", meta.Sequence.Consumer, delivered))
		}
		seq := meta.Sequence.Stream
		if !s.follow && seq > end || s.last > 0 && seq > s.last {
			return nil
		}
		err = f(Entry{
			Stream: name, Subject: msg.Subject(), Seq: seq, Time: meta.Timestamp,
			Header: msg.Headers(), Data: msg.Data(),
		})
		if err != nil {
			return err
		}
		s.from = seq + 1
		if !s.follow && seq == end {
			return nil
		}
		if !s.follow && meta.NumPending == 0 {
			return failed(errBehind)
		}
	}
}

// errBehind: the server with the scan's consumer lacks messages that the leader has, or they were removed meanwhile.
var errBehind = errors.New("this replica is behind the leader")

// end returns the position of the newest message that the stream's leader has on the scan's subjects; 0 when it has none.
func (s *scan) end(ctx context.Context, stream jetstream.Stream) (uint64, error) {
	end := uint64(0)
	for _, subject := range s.subjects {
		newest, err := stream.GetLastMsgForSubject(ctx, subject)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return 0, err
		}
		end = max(end, newest.Sequence)
	}
	return end, nil
}

func (s *scan) consumer() jetstream.ConsumerConfig {
	config := jetstream.ConsumerConfig{
		FilterSubjects: s.subjects,
		DeliverPolicy:  jetstream.DeliverAllPolicy,
		AckPolicy:      jetstream.AckNonePolicy,
		HeadersOnly:    s.ids,
		MemoryStorage:  true,
		Replicas:       1,
		// discard deletes the consumer; this covers a process that dies.
		InactiveThreshold: 5 * time.Minute,
	}
	switch {
	case s.from > 0:
		config.DeliverPolicy, config.OptStartSeq = jetstream.DeliverByStartSequencePolicy, s.from
	case !s.since.IsZero():
		config.DeliverPolicy, config.OptStartTime = jetstream.DeliverByStartTimePolicy, &s.since
	}
	return config
}

// discard deletes an ephemeral consumer. Otherwise the server would delete it later.
func (c *Conn) discard(consumer jetstream.Consumer) {
	if !c.nc.IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	info := consumer.CachedInfo()
	if err := c.js.DeleteConsumer(ctx, info.Stream, info.Name); err != nil {
		c.log.Debug().Err(err).Str("stream", info.Stream).Msg("cannot delete the reader's consumer: the server will remove it")
	}
}

// firsts returns the positions of an iteration's entries of a kind by key. An entry that was stored again has its first position.
func (c *Conn) firsts(ctx context.Context, kind schemas.Kind, run string, iteration uint32) (map[string]uint64, error) {
	at := map[string]uint64{}
	p := Part{Kind: kind, Run: run, Iteration: int(iteration), Headers: true}
	err := c.Scan(ctx, p, func(e Entry) error {
		if at[e.Key()] == 0 {
			at[e.Key()] = e.Seq
		}
		return nil
	})
	return at, err
}

// PassOver logs that a reader skips an entry that it cannot decode because of err. It returns an error if the reader must not
// skip it, because this program is too old for it.
func (c *Conn) PassOver(e Entry, err error) error {
	if errors.Is(err, ErrNewer) {
		return fmt.Errorf("%s at %d: %w", e.Stream, e.Seq, err)
	}
	c.log.Warn().Err(err).Str("stream", e.Stream).Uint64("seq", e.Seq).Msg("skipped a message that cannot be decoded")
	return nil
}

// stopped turns ErrStop into nil.
func stopped(err error) error {
	if errors.Is(err, ErrStop) {
		return nil
	}
	return err
}
