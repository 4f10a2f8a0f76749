package streams

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ldalign/ldalign/schemas"
)

const (
	// purgedBucket counts, by stream, the messages of deleted runs, and those that retention has removed: holes in the log
	// that nobody need worry about.
	purgedBucket = "ldalign-purged"
)

// DeleteRun removes a run from the streams: its messages, its stages' consumers, and what is kept of it beside them. The
// caller holds the run's lease, and no worker of it is alive. The message that declares the run goes last, so that an
// interrupted deletion can be repeated. A run of the same name may begin at once: see incarnation.
func (c *Conn) DeleteRun(ctx context.Context, run string) error {
	failed := func(err error) error { return fmt.Errorf("streams: delete run %s: %w", run, err) }
	if err := c.reincarnate(ctx, run); err != nil {
		return failed(err)
	}
	for _, kind := range schemas.Kinds() { // control is the last of them
		if err := c.deleteKind(ctx, kind, run); err != nil {
			return failed(err)
		}
	}
	for _, beside := range []struct{ bucket, keys string }{
		{trialBucket, "*." + run + ".>"}, {pauseBucket, run + ".*"}, {heartbeatBucket, run + ".>"},
	} {
		kv, err := c.js.KeyValue(ctx, beside.bucket)
		if errors.Is(err, jetstream.ErrBucketNotFound) {
			continue
		}
		var found []string
		if err == nil {
			err = eachKey(ctx, kv, beside.keys, func(e jetstream.KeyValueEntry) { found = append(found, e.Key()) })
		}
		for _, key := range found {
			err = errors.Join(err, kv.Purge(ctx, key))
		}
		if err != nil {
			return failed(err)
		}
	}
	return nil
}

// deleteKind removes a run's consumers and messages of one kind.
func (c *Conn) deleteKind(ctx context.Context, kind schemas.Kind, run string) error {
	infos, err := c.consumers(ctx, kind, run)
	if err != nil {
		return err
	}
	for _, info := range infos {
		if err := c.js.DeleteConsumer(ctx, StreamName(kind), info.Name); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			return err
		}
	}
	_, err = c.purge(ctx, kind, schemas.RunSubjects(kind, run))
	return err
}

// addPurged notes that n messages more are missing from a stream on purpose.
func (c *Conn) addPurged(ctx context.Context, kind schemas.Kind, n uint64) error {
	kv, err := c.bucket(ctx, purgedBucket, "messages that were removed on purpose, by stream", 0)
	for err == nil {
		var entry jetstream.KeyValueEntry
		if entry, err = kv.Get(ctx, StreamName(kind)); errors.Is(err, jetstream.ErrKeyNotFound) {
			_, err = kv.Create(ctx, StreamName(kind), []byte(strconv.FormatUint(n, 10)))
		} else if err == nil {
			before, _ := strconv.ParseUint(string(entry.Value()), 10, 64) // what is none counts as 0
			_, err = kv.Update(ctx, StreamName(kind), []byte(strconv.FormatUint(before+n, 10)), entry.Revision())
		}
		if !conflict(err) {
			return err
		}
		err = nil // another process has counted meanwhile
	}
	return err
}

// conflict tells that a key was written by somebody else meanwhile.
func conflict(err error) bool {
	api := new(jetstream.APIError)
	return errors.Is(err, jetstream.ErrKeyExists) ||
		errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence
}

// purged is how many messages are missing from a stream on purpose; 0 when that is not known.
func (c *Conn) purged(ctx context.Context, stream string) uint64 {
	kv, err := c.js.KeyValue(ctx, purgedBucket)
	if err != nil {
		return 0
	}
	entry, err := kv.Get(ctx, stream)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(string(entry.Value()), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// ErrAtWork: somebody works on a run that is to be at rest.
var ErrAtWork = errors.New("streams: run in use")

// Idle is nil when nobody works on a run; else it names who does and wraps ErrAtWork.
func (c *Conn) Idle(ctx context.Context, run string) error {
	workers, err := c.Workers(ctx, run)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(workers, func(w Worker) bool { return time.Since(w.Seen) < heartbeatTTL })
	if i < 0 {
		return nil
	}
	return fmt.Errorf("%w: %s %s works on run %s: stop it first (a dead one is forgotten after %v)",
		ErrAtWork, workers[i].Stage, workers[i].Worker, run, heartbeatTTL)
}

// purge removes the messages on the subjects that match from a kind's stream, and notes that holes are left.
func (c *Conn) purge(ctx context.Context, kind schemas.Kind, subjects string) (uint64, error) {
	stream, err := c.stream(ctx, kind)
	if err != nil {
		return 0, err
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(subjects))
	if err != nil {
		return 0, fmt.Errorf("streams: purge %s: %w", subjects, err)
	}
	var n uint64
	for _, count := range info.State.Subjects {
		n += count
	}
	if n == 0 {
		return 0, nil
	}
	// Counted before they go: a count that is too high hides a loss, one that is too low raises a false alarm.
	if err := c.addPurged(ctx, kind, n); err != nil {
		return 0, err
	}
	return n, stream.Purge(ctx, jetstream.WithPurgeSubject(subjects))
}
