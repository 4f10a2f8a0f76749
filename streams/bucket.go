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
