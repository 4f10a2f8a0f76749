package streams

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ldalign/ldalign/schemas"
)

// incarnationBucket holds, by run, how many runs of that name have been deleted.
const incarnationBucket = "ldalign-incarnations"

// incarnationMark stands behind the run's name in the message ids of a run whose name was deleted before.
const incarnationMark = "~"

// incarnations are what a connection knows of deleted names.
type incarnations struct {
	mu    sync.Mutex
	known map[string]uint64
}

// forget has the number of one run asked for again, or of all when run is empty.
func (i *incarnations) forget(run string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if run == "" {
		i.known = nil
		return
	}
	delete(i.known, run)
}

// incarnation is how many runs of a name were deleted before this one. It is part of the ids by which streams recognise
// what they have stored, because they remember those of deleted messages too, for as long as Limits.DedupWindow: without it, the
// messages of a new run would be taken for those of the old one, and not be stored. Ids that messages and manifests carry
// do not have it. It is asked for once by a connection, and again after every reconnect and by every stage and lease that
// begins, which a run has to have while it is not deleted.
func (c *Conn) incarnation(ctx context.Context, run string) (uint64, error) {
	c.incarnations.mu.Lock()
	n, known := c.incarnations.known[run]
	c.incarnations.mu.Unlock()
	if known {
		return n, nil
	}
	for try := 1; ; try++ {
		n, err := c.askIncarnation(ctx, run)
		if err == nil {
			c.incarnations.mu.Lock()
			defer c.incarnations.mu.Unlock()
			if c.incarnations.known == nil {
				c.incarnations.known = map[string]uint64{}
			}
			c.incarnations.known[run] = n
			return n, nil
		}
		if c.server != nil {
			if broken := c.server.healthy(); broken != nil {
				return 0, broken
			}
		}
		api := new(jetstream.APIError)
		if ctx.Err() != nil || c.nc.IsClosed() || errors.As(err, &api) && api.Code != 503 {
			return 0, fmt.Errorf("streams: incarnation of run %s: %w", run, err)
		}
		c.log.Warn().Err(err).Str("run", run).Msg("cannot ask for the run's incarnation, trying again")
		if !pause(ctx, c.limits.backoff(try)) {
			return 0, ctx.Err()
		}
	}
}

func (c *Conn) askIncarnation(ctx context.Context, run string) (uint64, error) {
	asking, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	kv, err := c.js.KeyValue(asking, incarnationBucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	entry, err := kv.Get(asking, run)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(string(entry.Value()), 10, 64)
}

// reincarnate makes the next run of a name another one than all before. It is called before anything of the old one is
// removed; to call it again does no harm.
func (c *Conn) reincarnate(ctx context.Context, run string) error {
	c.incarnations.forget(run)
	n, err := c.incarnation(ctx, run)
	if err != nil {
		return err
	}
	kv, err := c.bucket(ctx, incarnationBucket, "how many runs of a name were deleted", 0)
	if err != nil {
		return err
	}
	c.incarnations.forget(run)
	_, err = kv.Put(ctx, run, []byte(strconv.FormatUint(n+1, 10)))
	return err
}

// incarnate is a message id, with an incarnation or without, as one of the n-th incarnation of its run; of the first, 0,
// as messageID has it. What is none of ours stays as it is.
func incarnate(text string, n uint64) string {
	kind, run, id, ok := splitID(text)
	if !ok {
		return text
	}
	if n > 0 {
		run += incarnationMark + strconv.FormatUint(n, 10)
	}
	return messageID(schemas.Kind(kind), run, id)
}
