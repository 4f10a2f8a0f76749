package streams

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ldalign/ldalign/schemas"
)

// DeleteRun deletes a run from the server: its streams with their consumers, its consumers in the log of its source, and its
// pauses, heartbeats and trials. The caller must hold the run's lease and must have made sure that no worker is alive. DeleteRun
// deletes the stream with the run's declaration last, so that an interrupted deletion can be repeated. Afterwards a run of the
// same name may be declared at once.
func (c *Conn) DeleteRun(ctx context.Context, run string) error {
	failed := func(err error) error { return fmt.Errorf("streams: delete run %s: %w", run, err) }
	for _, beside := range []struct{ bucket, keys string }{
		{trialBucket, "*." + run + ".>"}, {pauseBucket, run + ".*"}, {heartbeatBucket, run + ".>"},
	} {
		err := c.do(ctx, "empty the bucket "+beside.bucket, func(ctx context.Context) error {
			return c.forget(ctx, beside.bucket, beside.keys, 0)
		})
		if err != nil {
			return failed(err)
		}
	}
	for _, log := range Logs() { // the last of them holds the declaration
		if err := c.leaveSource(ctx, log, run); err != nil {
			return failed(err)
		}
		err := c.do(ctx, "delete "+StreamName(log, run), func(ctx context.Context) error {
			return c.js.DeleteStream(ctx, StreamName(log, run))
		})
		if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return failed(err)
		}
	}
	return nil
}

// leaveSource deletes a run's consumers in the log of its source.
func (c *Conn) leaveSource(ctx context.Context, kind schemas.Kind, run string) error {
	infos, err := c.consumers(ctx, kind, run)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, own := range infos {
		info, err := c.inSource(ctx, kind, run, own)
		if err != nil {
			return err
		}
		if info == nil {
			continue
		}
		err = c.do(ctx, "delete consumer "+info.Name, func(ctx context.Context) error {
			return c.js.DeleteConsumer(ctx, info.Stream, info.Name)
		})
		if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			return err
		}
	}
	return nil
}

// purgedKey is the key of a stream's metadata that counts the messages removed on purpose.
const purgedKey = "ldalign-purged"

// purged returns how many messages were removed from a stream on purpose.
func purged(config jetstream.StreamConfig) uint64 {
	n, err := strconv.ParseUint(config.Metadata[purgedKey], 10, 64)
	if err != nil {
		return 0 // none was purged
	}
	return n
}

// addPurged records that n more messages will be removed from a stream on purpose. Call it before removing them: after an
// interruption the count may then be too high, which can hide a loss, but never too low, which would raise a false alarm.
func (c *Conn) addPurged(ctx context.Context, stream jetstream.Stream, n uint64) error {
	config := stream.CachedInfo().Config
	config.Metadata = maps.Clone(config.Metadata)
	if config.Metadata == nil {
		config.Metadata = map[string]string{}
	}
	config.Metadata[purgedKey] = strconv.FormatUint(purged(config)+n, 10)
	_, err := c.update(ctx, config)
	return err
}

// purge removes the messages on a subject from a run's log. The caller must hold the run's lease.
func (c *Conn) purge(ctx context.Context, kind schemas.Kind, run, subject string) (uint64, error) {
	stream, err := c.stream(ctx, kind, run)
	if err != nil {
		return 0, err
	}
	info, err := c.info(ctx, stream, subject)
	if err != nil {
		return 0, fmt.Errorf("streams: purge %s: %w", subject, err)
	}
	n := info.State.Subjects[subject]
	if n == 0 {
		return 0, nil
	}
	if err := c.addPurged(ctx, stream, n); err != nil {
		return 0, fmt.Errorf("streams: purge %s: %w", subject, err)
	}
	return n, c.do(ctx, "purge "+subject, func(ctx context.Context) error {
		return stream.Purge(ctx, jetstream.WithPurgeSubject(subject))
	})
}

// ErrAtWork: workers run on a run that must be idle.
var ErrAtWork = errors.New("streams: run in use")

// Idle returns nil when no worker of a run is alive. Otherwise the error names one and wraps ErrAtWork. Only the server decides
// how long a worker without heartbeats counts: clocks may differ.
func (c *Conn) Idle(ctx context.Context, run string) error {
	workers, err := c.Workers(ctx, run)
	if err != nil {
		return err
	}
	if len(workers) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s %s works on run %s: stop it first (if it has died, wait %v)",
		ErrAtWork, workers[0].Stage, workers[0].Worker, run, heartbeatTTL)
}
