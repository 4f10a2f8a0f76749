package streams

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// bucket returns the configuration of the stream that holds a key-value bucket. All runs of a server share its buckets. It is
// what nats.go creates, except for AllowDirect: any replica answers a direct get, also one that lags behind.
func (l Limits) bucket(name string) jetstream.StreamConfig {
	config := jetstream.StreamConfig{
		Name:              streamOf(name),
		Subjects:          []string{subjectIn(name, ">")},
		MaxMsgsPerSubject: 1,
		MaxBytes:          4 << 20,
		MaxMsgs:           -1,
		MaxMsgSize:        -1,
		MaxConsumers:      -1,
		Discard:           jetstream.DiscardNew,
		Storage:           jetstream.FileStorage,
		Replicas:          l.Replicas,
		AllowRollup:       true,
		DenyDelete:        true,
	}
	switch name {
	case leaseBucket:
		config.Description = "one trainer per run"
	case pauseBucket:
		config.Description = "runs and stages that are paused"
	case trialBucket:
		config.Description, config.MaxAge = "messages that processes may have died of", l.MaxAge
	case heartbeatBucket: // a restart of the server may forget it
		config.Description, config.MaxAge, config.Storage = "what workers do", heartbeatTTL, jetstream.MemoryStorage
	}
	return config
}

// streamOf returns the name of the stream that holds a bucket.
func streamOf(bucket string) string { return "KV_" + bucket }

// subjectIn returns the subject of a key, or of keys that match a pattern.
func subjectIn(bucket, key string) string { return "$KV." + bucket + "." + key }

// bucket opens a bucket, and creates it if it does not exist.
func (c *Conn) bucket(ctx context.Context, name string) (jetstream.KeyValue, error) {
	return ask(ctx, c, "open the bucket "+name, func(ctx context.Context) (jetstream.KeyValue, error) {
		return c.tryBucket(ctx, name)
	})
}

// tryBucket is bucket with one try.
func (c *Conn) tryBucket(ctx context.Context, name string) (jetstream.KeyValue, error) {
	kv, err := c.js.KeyValue(ctx, name)
	if !errors.Is(err, jetstream.ErrBucketNotFound) {
		return kv, err
	}
	_, err = c.js.CreateStream(ctx, c.limits.bucket(name))
	if err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return nil, err
	}
	return c.js.KeyValue(ctx, name)
}

// ensureBucket creates a bucket, or raises its number of replicas.
func (c *Conn) ensureBucket(ctx context.Context, want jetstream.StreamConfig) error {
	stream, err := c.create(ctx, want)
	if err != nil {
		return streamError(want, err)
	}
	config := stream.CachedInfo().Config
	if config.Replicas >= want.Replicas {
		return nil
	}
	config.Replicas = want.Replicas
	if _, err := c.update(ctx, config); err != nil {
		return streamError(want, err)
	}
	return nil
}

// entries returns the entries of a bucket whose keys match a pattern, in the order of their keys. A bucket that does not exist
// has none. It asks the leader for each, so it misses none that was stored before.
func (c *Conn) entries(ctx context.Context, bucket, keys string) ([]jetstream.KeyValueEntry, error) {
	return ask(ctx, c, "read the bucket "+bucket, func(ctx context.Context) ([]jetstream.KeyValueEntry, error) {
		stream, err := c.js.Stream(ctx, streamOf(bucket))
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		kv, err := c.js.KeyValue(ctx, bucket)
		if err != nil {
			return nil, err
		}
		info, err := stream.Info(ctx, jetstream.WithSubjectFilter(subjectIn(bucket, keys)))
		if err != nil {
			return nil, err
		}
		var found []jetstream.KeyValueEntry
		for _, subject := range slices.Sorted(maps.Keys(info.State.Subjects)) {
			entry, err := kv.Get(ctx, strings.TrimPrefix(subject, subjectIn(bucket, "")))
			if errors.Is(err, jetstream.ErrKeyNotFound) {
				continue // removed meanwhile
			}
			if err != nil {
				return nil, err
			}
			found = append(found, entry)
		}
		return found, nil
	})
}

// forget removes the values of the keys that match, up to a revision (0 for all), from a bucket. It does nothing if there is no
// such bucket. It leaves no markers behind, as KeyValue.Delete and KeyValue.Purge do, which fill a bucket in the end.
func (c *Conn) forget(ctx context.Context, bucket, keys string, upTo uint64) error {
	stream, err := c.js.Stream(ctx, streamOf(bucket))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	what := []jetstream.StreamPurgeOpt{jetstream.WithPurgeSubject(subjectIn(bucket, keys))}
	if upTo > 0 {
		what = append(what, jetstream.WithPurgeSequence(upTo+1))
	}
	return stream.Purge(ctx, what...)
}
