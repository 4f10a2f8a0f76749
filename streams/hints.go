package streams

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// hintStream stores the notifications of a bucket. MinIO keeps an event in its queue until a stream has stored it.
const hintStream = "LDALIGN_HINTS"

// OnHint calls f when anything is published on subject (such as ldalign-bucket.>), until ctx ends. Any number of hints that
// arrive while f runs cause one more call. OnHint ignores the content of the hints, because they may be late, repeated or lost;
// they only say when to look. It calls f at once when it starts, for the hints that came before. It returns an error of f.
func (c *Conn) OnHint(ctx context.Context, subject string, f func() error) error {
	stream, err := c.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:      hintStream,
		Subjects:  []string{subject},
		Storage:   jetstream.FileStorage,
		Retention: jetstream.LimitsPolicy,
		Discard:   jetstream.DiscardOld,
		MaxBytes:  16 << 20,
		MaxAge:    24 * time.Hour,
		Replicas:  c.limits.Replicas,
	})
	if err != nil {
		return fmt.Errorf("streams: hints on %s: %w", subject, err)
	}
	hinted := make(chan struct{}, 1)
	hint := func(Entry) error {
		select {
		case hinted <- struct{}{}:
		default: // a call is already due
		}
		return nil
	}
	_ = hint(Entry{})
	next := stream.CachedInfo().State.LastSeq + 1
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return c.scan(ctx, scan{stream: hintStream, subjects: []string{subject}, from: next, follow: true}, hint)
	})
	group.Go(func() error {
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
	})
	return group.Wait()
}
