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

// ErrTopology: a stream exists with a configuration that this program cannot use.
var ErrTopology = errors.New("streams: stream has a different configuration")

// headerRoom is how many bytes subject and headers may add to a message's payload.
const headerRoom = 4 << 10

// streamPrefix is the prefix of the names of runs' streams.
const streamPrefix = "LDALIGN_"

// Logs lists the logs of a run in the order in which data flows, each by the first kind that it holds. Checkpoints, results and
// control messages are few and share a log; every other kind has its own. See docs/adr/0025-each-run-has-its-own-streams.md.
func Logs() []schemas.Kind {
	return append(schemas.PairKinds(), schemas.DeadLetters, schemas.Checkpoints)
}

// LogOf returns the log that holds a kind, by that log's first kind.
func LogOf(kind schemas.Kind) schemas.Kind {
	if kind == schemas.Results || kind == schemas.Control {
		return schemas.Checkpoints
	}
	return kind
}

// kindsOf returns the kinds in a log.
func kindsOf(log schemas.Kind) []schemas.Kind {
	if log == schemas.Checkpoints {
		return []schemas.Kind{schemas.Checkpoints, schemas.Results, schemas.Control}
	}
	return []schemas.Kind{log}
}

// StreamName returns the name of the stream that holds a kind of a run: LDALIGN_<run>_<LOG>. A run's name has no capital letters.
func StreamName(kind schemas.Kind, run string) string {
	log := strings.ToUpper(string(LogOf(kind)))
	if LogOf(kind) == schemas.Checkpoints {
		log = "FACTS"
	}
	return streamPrefix + run + "_" + log
}

// Declare creates the streams of a run with the given limits, and the buckets of the server. It checks streams that exist,
// raises MaxBytes, MaxAge and Replicas where the given ones are higher, and sets DedupWindow. It never lowers MaxBytes or
// MaxAge, because that would discard messages, nor Replicas. The process that declares a run calls it; others get ErrNotFound
// until the streams exist. Several processes may call it at once. It returns ErrTopology, naming the stream and the
// differences, when a stream cannot be used.
func (c *Conn) Declare(ctx context.Context, run string, limits Limits) error {
	limits = limits.withDefaults()
	if err := limits.validate(); err != nil {
		return err
	}
	if !schemas.ValidRun(run) {
		return fmt.Errorf("streams: %q is not a valid run name", run)
	}
	for _, log := range Logs() {
		if err := c.ensureStream(ctx, limits.stream(log, run)); err != nil {
			return err
		}
	}
	for _, name := range []string{leaseBucket, pauseBucket, trialBucket, heartbeatBucket} {
		if err := c.ensureBucket(ctx, limits.bucket(name)); err != nil {
			return err
		}
	}
	return nil
}

// stream returns the configuration of a log's stream.
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
		// A log keeps messages after they are read, and keeps them and their ids over a restart.
		Retention: jetstream.LimitsPolicy,
		Storage:   jetstream.FileStorage,
		// A full log refuses new messages. Dropping its oldest ones instead would silently lose pairs.
		Discard:           jetstream.DiscardNew,
		MaxConsumers:      -1,
		MaxMsgs:           -1,
		MaxMsgsPerSubject: -1,
		MaxBytes:          l.MaxBytes,
		MaxAge:            l.MaxAge,
		MaxMsgSize:        int32(size + headerRoom),
		Duplicates:        l.dedupWindow(kind, l.MaxAge),
		Replicas:          l.Replicas,
		// Redriving or dropping removes single dead letters. From the other logs, retention removes whole iterations by a purge.
		DenyDelete: kind != schemas.DeadLetters,
	}
}

// create creates a stream, or opens the one that exists, whatever its configuration.
func (c *Conn) create(ctx context.Context, want jetstream.StreamConfig) (jetstream.Stream, error) {
	return ask(ctx, c, "create "+want.Name, func(ctx context.Context) (jetstream.Stream, error) {
		stream, err := c.js.CreateStream(ctx, want)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			stream, err = c.js.Stream(ctx, want.Name)
		}
		return stream, err
	})
}

func (c *Conn) update(ctx context.Context, config jetstream.StreamConfig) (jetstream.Stream, error) {
	return ask(ctx, c, "update "+config.Name, func(ctx context.Context) (jetstream.Stream, error) {
		return c.js.UpdateStream(ctx, config)
	})
}

// ensureStream creates a stream, or raises its limits, and checks the resulting configuration.
func (c *Conn) ensureStream(ctx context.Context, want jetstream.StreamConfig) error {
	stream, err := c.create(ctx, want)
	if err != nil {
		return streamError(want, err)
	}
	have := stream.CachedInfo().Config
	raised := have
	raised.MaxBytes = raise(have.MaxBytes, want.MaxBytes)
	raised.MaxAge = time.Duration(raise(int64(have.MaxAge), int64(want.MaxAge)))
	raised.Duplicates = want.Duplicates
	raised.Replicas = max(have.Replicas, want.Replicas)
	if raised.MaxBytes != have.MaxBytes || raised.MaxAge != have.MaxAge || raised.Duplicates != have.Duplicates ||
		raised.Replicas != have.Replicas {
		if stream, err = c.update(ctx, raised); err != nil {
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

// Error codes of the server for streams with replicas.
const (
	codeReplicas jetstream.ErrorCode = 10074 // it runs alone
	codePeers    jetstream.ErrorCode = 10005 // its cluster has too few servers
)

// raise returns the higher of two limits. A limit of -1 or 0 means none.
func raise(have, want int64) int64 {
	if have <= 0 {
		return have
	}
	return max(have, want)
}

// differences lists the differences in a stream's configuration that would break a guarantee of this package.
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

// noRun returns the error for a run without streams on the server.
func noRun(run string) error {
	return fmt.Errorf("%w: the server has no streams of run %s: the run is not declared, was deleted, or the server has lost its "+
		"store: restore the store, or the run from a backup (`ldalign restore`)", ErrNotFound, run)
}

func streamError(want jetstream.StreamConfig, err error) error {
	api := new(jetstream.APIError)
	switch {
	case !errors.As(err, &api):
	case api.ErrorCode == codeStorage || api.ErrorCode == codeResources:
		return fmt.Errorf("streams: stream %s: the server cannot reserve max_bytes %d: lower streams.max_bytes: %w",
			want.Name, want.MaxBytes, err)
	case api.ErrorCode == codeReplicas || api.ErrorCode == codePeers:
		return fmt.Errorf("streams: stream %s: streams.replicas: %d needs a cluster of as many servers with JetStream: %w",
			want.Name, want.Replicas, err)
	}
	return fmt.Errorf("streams: stream %s: %w", want.Name, err)
}
