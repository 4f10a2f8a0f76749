package streams

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go/jetstream"
)

// bucket returns the configuration of a key-value bucket. All runs of a server share its buckets.
func (l Limits) bucket(name string) jetstream.KeyValueConfig {
	config := jetstream.KeyValueConfig{
		Bucket: name, History: 1, MaxBytes: 4 << 20, Storage: jetstream.FileStorage, Replicas: l.Replicas,
	}
	switch name {
	case leaseBucket:
		config.Description = "one trainer per run"
	case pauseBucket:
		config.Description = "runs and stages that are paused"
	case trialBucket:
		config.Description, config.TTL = "messages that processes may have died of", l.MaxAge
	case heartbeatBucket: // a restart of the server may forget it
		config.Description, config.TTL, config.Storage = "what workers do", heartbeatTTL, jetstream.MemoryStorage
	}
	return config
}

// bucket opens a bucket, and creates it if it does not exist.
func (c *Conn) bucket(ctx context.Context, name string) (jetstream.KeyValue, error) {
	kv, err := c.js.KeyValue(ctx, name)
	if !errors.Is(err, jetstream.ErrBucketNotFound) {
		return kv, err
	}
	kv, err = c.js.CreateKeyValue(ctx, c.limits.bucket(name))
	if errors.Is(err, jetstream.ErrBucketExists) {
		return c.js.KeyValue(ctx, name)
	}
	return kv, err
}

// ensureBucket creates a bucket, or raises its number of replicas.
func (c *Conn) ensureBucket(ctx context.Context, want jetstream.KeyValueConfig) error {
	stream, err := c.js.Stream(ctx, bucketStream+want.Bucket)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if _, err = c.js.CreateKeyValue(ctx, want); !errors.Is(err, jetstream.ErrBucketExists) {
			return bucketError(want, err)
		}
		stream, err = c.js.Stream(ctx, bucketStream+want.Bucket)
	}
	if err != nil {
		return bucketError(want, err)
	}
	config := stream.CachedInfo().Config
	if config.Replicas >= want.Replicas {
		return nil
	}
	config.Replicas = want.Replicas
	_, err = c.js.UpdateStream(ctx, config)
	return bucketError(want, err)
}

func bucketError(want jetstream.KeyValueConfig, err error) error {
	if err == nil {
		return nil
	}
	return streamError(jetstream.StreamConfig{Name: bucketStream + want.Bucket, MaxBytes: want.MaxBytes, Replicas: want.Replicas}, err)
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
