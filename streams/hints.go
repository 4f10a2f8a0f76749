package streams

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// hintStream takes what a bucket's notifications say.
const hintStream = "LDALIGN_HINTS"

// OnHint calls f when anything is published on subject (such as ldalign-bucket.>), until ctx ends. Hints that arrive
// while f runs make it run once more, not once each; what the hints say is not looked at, for they may be late,
// repeated or lost: they only tell when to look. The first call comes at once, for what was hinted while nobody
// listened. An error of f is returned.
func (c *Conn) OnHint(ctx context.Context, subject string, f func() error) error {
	if err := c.ensureHints(ctx, subject); err != nil {
		return err
	}
	hinted := make(chan struct{}, 1)
	hinted <- struct{}{}
	sub, err := c.nc.Subscribe(subject, func(*nats.Msg) {
		select {
		case hinted <- struct{}{}:
		default: // one is waiting already
		}
	})
	if err != nil {
		return fmt.Errorf("streams: hints on %s: %w", subject, err)
	}
	defer func() {
		if err := sub.Unsubscribe(); err != nil {
			c.log.Debug().Err(err).Msg("hints")
		}
	}()
	for {
		select {
		case <-hinted:
			if err := f(); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ensureHints binds the hint stream to the subject. The stream is there for the publisher: MinIO publishes to JetStream
// and keeps its event in a queue until a stream has taken it.
func (c *Conn) ensureHints(ctx context.Context, subject string) error {
	stream, err := c.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: hintStream, Subjects: []string{subject}, Storage: jetstream.FileStorage, Retention: jetstream.LimitsPolicy,
		Discard: jetstream.DiscardOld, MaxBytes: 16 << 20, MaxAge: 24 * time.Hour, Replicas: c.limits.Replicas,
	})
	if err != nil {
		return fmt.Errorf("streams: hints on %s: %w", subject, err)
	}
	if stream.CachedInfo() == nil {
		return errors.New("streams: hints: no answer")
	}
	return nil
}
