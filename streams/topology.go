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

// StreamName is the stream of a kind: LDALIGN_ and the kind in upper case.
func StreamName(kind schemas.Kind) string { return "LDALIGN_" + strings.ToUpper(string(kind)) }

// EnsureTopology creates the eight streams, or checks those that exist and raises their limits where this connection's
// are higher; limits are never lowered, for that would discard messages. How long a stream remembers ids is set as this
// connection has it. It may run in many processes at once. Error: ErrTopology, naming the stream and what differs.
func (c *Conn) EnsureTopology(ctx context.Context) error {
	for _, kind := range schemas.Kinds() {
		if err := c.ensureStream(ctx, kind); err != nil {
			return err
		}
	}
	return nil
}

func (c *Conn) streamConfig(kind schemas.Kind) jetstream.StreamConfig {
	size := MaxMessage
	if kind == schemas.DeadLetters {
		size = maxLetter
	}
	return jetstream.StreamConfig{
		Name:     StreamName(kind),
		Subjects: []string{schemas.KindSubjects(kind)},
		// A log: messages stay when they were read, and so do their ids, over a restart.
		Retention: jetstream.LimitsPolicy,
		Storage:   jetstream.FileStorage,
		// A full log refuses; dropping its oldest messages would lose pairs in silence.
		Discard:           jetstream.DiscardNew,
		MaxConsumers:      -1,
		MaxMsgs:           -1,
		MaxMsgsPerSubject: -1,
		MaxBytes:          c.limits.MaxBytes,
		MaxAge:            c.limits.MaxAge,
		MaxMsgSize:        int32(size + headerRoom),
		Duplicates:        c.limits.dedupWindow(kind, c.limits.MaxAge),
		Replicas:          c.limits.Replicas,
		AllowDirect:       true,
		// Dead letters that are redriven or dropped are removed one by one. Of other kinds only a purge removes anything: that of a
		// deleted run, or of an iteration by retention.
		DenyDelete: kind != schemas.DeadLetters,
	}
}

// ensureStream makes the stream of a kind be as streamConfig says, reads it back and asserts it.
func (c *Conn) ensureStream(ctx context.Context, kind schemas.Kind) error {
	want := c.streamConfig(kind)
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
	raised.Duplicates = c.limits.dedupWindow(kind, raised.MaxAge)
	if raised.MaxBytes != have.MaxBytes || raised.MaxAge != have.MaxAge || raised.Duplicates != have.Duplicates {
		if stream, err = c.js.UpdateStream(ctx, raised); err != nil {
			return streamError(want, err)
		}
		have = stream.CachedInfo().Config
	}
	if diff := differences(have, want); len(diff) > 0 {
		return fmt.Errorf("%w: %s: %s; remove the stream or use another server",
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

// noStream says that a stream is not there, which a server has from the first run on it on.
func noStream(name string) error {
	return fmt.Errorf("%w: the server has no stream %s: no run was started on it, or it came back without its store: restore that, "+
		"or each run from a backup (`ldalign restore`)", ErrNotFound, name)
}

func streamError(want jetstream.StreamConfig, err error) error {
	var api *jetstream.APIError
	if errors.As(err, &api) && (api.ErrorCode == codeStorage || api.ErrorCode == codeResources) {
		return fmt.Errorf("streams: stream %s: the server cannot reserve max_bytes %d: lower streams.max_bytes: %w",
			want.Name, want.MaxBytes, err)
	}
	return fmt.Errorf("streams: stream %s: %w", want.Name, err)
}
