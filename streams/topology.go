package streams

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ldalign/ldalign/schemas"
)

// ErrTopology: a stream exists with a configuration that this program cannot work with.
var ErrTopology = errors.New("streams: stream has another configuration")

// headerRoom is what a message may add to its payload: subject, id, lineage.
const headerRoom = 4 << 10

// streamPrefix begins the names of the streams of runs.
const streamPrefix = "LDALIGN_"

// Logs lists the logs of a run, each by the first kind that it holds, in the order in which data flows. A kind has a log of its
// own, but checkpoints, results and control messages, which are few, share one. See
// docs/adr/0025-each-run-has-its-own-streams.md.
func Logs() []schemas.Kind {
	return append(schemas.PairKinds(), schemas.DeadLetters, schemas.Checkpoints)
}

// LogOf is the log that holds a kind.
func LogOf(kind schemas.Kind) schemas.Kind {
	if kind == schemas.Results || kind == schemas.Control {
		return schemas.Checkpoints
	}
	return kind
}

// kindsOf are the kinds in a log.
func kindsOf(log schemas.Kind) []schemas.Kind {
	if log == schemas.Checkpoints {
		return []schemas.Kind{schemas.Checkpoints, schemas.Results, schemas.Control}
	}
	return []schemas.Kind{log}
}

// StreamName is the stream that holds the messages of a kind of a run: LDALIGN_<run>_<LOG>. A run's name has no capital letters.
func StreamName(kind schemas.Kind, run string) string {
	log := strings.ToUpper(string(LogOf(kind)))
	if LogOf(kind) == schemas.Checkpoints {
		log = "FACTS"
	}
	return streamPrefix + run + "_" + log
}

// Declare creates the streams of a run with limits of its own, or checks those that exist and raises their limits where these
// are higher; limits are never lowered, for that would discard messages. How long a stream remembers ids is set as the limits
// say. Whoever declares a run calls it; all others find the streams, or ErrNotFound. It may run in many processes at once.
// Error: ErrTopology, naming the stream and what differs.
func (c *Conn) Declare(ctx context.Context, run string, limits Limits) error {
	limits = limits.withDefaults()
	if err := limits.validate(); err != nil {
		return err
	}
	if !schemas.ValidRun(run) {
		return fmt.Errorf("streams: %q is not a run's name", run)
	}
	for _, log := range Logs() {
		if err := c.ensureStream(ctx, limits.stream(log, run)); err != nil {
			return err
		}
	}
	return nil
}

// stream is the configuration of the stream of a log.
func (l Limits) stream(kind schemas.Kind, run string) jetstream.StreamConfig {
	size := MaxMessage
	if kind == schemas.DeadLetters {
		size = maxLetter
	}
	var subjects []string
	for _, k := range kindsOf(LogOf(kind)) {
		subjects = append(subjects, schemas.RunSubjects(k, run))
	}
	return jetstream.StreamConfig{
		Name:     StreamName(kind, run),
		Subjects: subjects,
		// A log: messages stay when they were read, and so do their ids, over a restart.
		Retention: jetstream.LimitsPolicy,
		Storage:   jetstream.FileStorage,
		// A full log refuses; dropping its oldest messages would lose pairs in silence.
		Discard:           jetstream.DiscardNew,
		MaxConsumers:      -1,
		MaxMsgs:           -1,
		MaxMsgsPerSubject: -1,
		MaxBytes:          l.MaxBytes,
		MaxAge:            l.MaxAge,
		MaxMsgSize:        int32(size + headerRoom),
		Duplicates:        l.dedupWindow(kind, l.MaxAge),
		Replicas:          l.Replicas,
		AllowDirect:       true,
		// Dead letters that are redriven or dropped are removed one by one. From other logs only the purge of an iteration by
		// retention removes anything.
		DenyDelete: kind != schemas.DeadLetters,
	}
}

// ensureStream makes a stream be as wanted, reads it back and asserts it.
func (c *Conn) ensureStream(ctx context.Context, want jetstream.StreamConfig) error {
	stream, err := c.js.CreateStream(ctx, want)
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		stream, err = c.js.Stream(ctx, want.Name)
	}
	if err != nil {
		return streamError(want, err)
	}
	have := stream.CachedInfo().Config
	raised := have
	raised.MaxBytes = raise(have.MaxBytes, want.MaxBytes)
	raised.MaxAge = time.Duration(raise(int64(have.MaxAge), int64(want.MaxAge)))
	raised.Duplicates = want.Duplicates
	if raised.MaxBytes != have.MaxBytes || raised.MaxAge != have.MaxAge || raised.Duplicates != have.Duplicates {
		if stream, err = c.js.UpdateStream(ctx, raised); err != nil {
			return streamError(want, err)
		}
		have = stream.CachedInfo().Config
	}
	if diff := differences(have, want); len(diff) > 0 {
		return fmt.Errorf("%w: %s: %s; delete the run or use another server",
			ErrTopology, want.Name, strings.Join(diff, ", "))
	}
	return nil
}

// raise is the higher of two limits, of which -1 and 0 mean none.
func raise(have, want int64) int64 {
	if have <= 0 {
		return have
	}
	return max(have, want)
}

// differences lists what of a stream's configuration would break a promise of this package.
func differences(have, want jetstream.StreamConfig) []string {
	var diff []string
	differ := func(name string, have, want any) {
		diff = append(diff, fmt.Sprintf("%s is %v, want %v", name, have, want))
	}
	if !slices.Equal(have.Subjects, want.Subjects) {
		differ("subjects", have.Subjects, want.Subjects)
	}
	if have.Retention != want.Retention {
		differ("retention", have.Retention, want.Retention)
	}
	if have.Storage != want.Storage {
		differ("storage", have.Storage, want.Storage)
	}
	if have.Discard != want.Discard {
		differ("discard", have.Discard, want.Discard)
	}
	if have.Replicas < want.Replicas {
		differ("replicas", have.Replicas, want.Replicas)
	}
	if have.MaxMsgSize != -1 && have.MaxMsgSize < want.MaxMsgSize {
		differ("max message size", have.MaxMsgSize, want.MaxMsgSize)
	}
	if have.MaxMsgs > 0 || have.MaxMsgsPerSubject > 0 {
		differ("max messages", max(have.MaxMsgs, have.MaxMsgsPerSubject), "none")
	}
	if have.NoAck {
		differ("no_ack", true, false)
	}
	return diff
}

// noRun says that a server has no streams of a run.
func noRun(run string) error {
	return fmt.Errorf("%w: the server has no streams of run %s: it is not declared, was deleted, or the server came back without "+
		"its store: restore that, or the run from a backup (`ldalign restore`)", ErrNotFound, run)
}

func streamError(want jetstream.StreamConfig, err error) error {
	var api *jetstream.APIError
	if errors.As(err, &api) && (api.ErrorCode == codeStorage || api.ErrorCode == codeResources) {
		return fmt.Errorf("streams: stream %s: the server cannot reserve max_bytes %d: lower streams.max_bytes: %w",
			want.Name, want.MaxBytes, err)
	}
	return fmt.Errorf("streams: stream %s: %w", want.Name, err)
}
