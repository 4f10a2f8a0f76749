package streams

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// bucket opens a key-value bucket, and creates it if it does not exist. Entries expire after ttl; 0 keeps them.
func (c *Conn) bucket(ctx context.Context, name, description string, ttl time.Duration) (jetstream.KeyValue, error) {
	kv, err := c.js.KeyValue(ctx, name)
	if !errors.Is(err, jetstream.ErrBucketNotFound) {
		return kv, err
	}
	kv, err = c.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket:      name,
		Description: description,
		History:     1,
		TTL:         ttl,
		MaxBytes:    4 << 20,
		Storage:     jetstream.FileStorage,
		Replicas:    c.limits.Replicas,
	})
	if errors.Is(err, jetstream.ErrBucketExists) {
		return c.js.KeyValue(ctx, name)
	}
	return kv, err
}

// forget removes the values of the keys that match, up to a revision (0 for all), from a bucket. It does nothing if there is no such
// bucket. It leaves no markers behind, as KeyValue.Delete and KeyValue.Purge do, which fill a bucket in the end.
func (c *Conn) forget(ctx context.Context, bucket, keys string, upTo uint64) error {
	stream, err := c.js.Stream(ctx, bucketStream+bucket)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	what := []jetstream.StreamPurgeOpt{jetstream.WithPurgeSubject("$KV." + bucket + "." + keys)}
	if upTo > 0 {
		what = append(what, jetstream.WithPurgeSequence(upTo+1))
	}
	return stream.Purge(ctx, what...)
}

// bucketStream is the prefix of the name of the stream that holds a bucket.
const bucketStream = "KV_"
