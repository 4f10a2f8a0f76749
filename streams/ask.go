package streams

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// maxAskPause bounds the pause between two tries of a request, so that work continues soon after an outage.
const maxAskPause = 5 * time.Second

// ask repeats a request until the server answers it. It waits while the server cannot be reached, while a cluster elects a
// leader, and while a server that is needed is away, until ctx ends. request must be harmless when it is repeated.
func ask[T any](ctx context.Context, c *Conn, what string, request func(context.Context) (T, error)) (T, error) {
	o := outage{conn: c, what: what}
	defer o.over()
	for try := 1; ; try++ {
		asking, cancel := context.WithTimeout(ctx, requestTimeout)
		var answer T
		err := c.permitted(asking, func(ctx context.Context) (err error) {
			answer, err = request(ctx)
			return err
		})
		cancel()
		if err == nil || ctx.Err() != nil || meaningOf(err) != passing {
			return answer, err
		}
		if err := c.storeError(); err != nil {
			return answer, err
		}
		o.failed(err)
		if !pause(ctx, c.askPause(try)) {
			return answer, fmt.Errorf("%w, last: %w", ctx.Err(), err)
		}
	}
}

// do is ask for a request without an answer of its own.
func (c *Conn) do(ctx context.Context, what string, request func(context.Context) error) error {
	_, err := ask(ctx, c, what, func(ctx context.Context) (struct{}, error) { return struct{}{}, request(ctx) })
	return err
}

// askPause returns the pause after a request has failed try times.
func (c *Conn) askPause(try int) time.Duration { return min(c.limits.backoff(try), maxAskPause) }

// storeError returns an error when the embedded server can no longer store, which waiting does not change.
func (c *Conn) storeError() error {
	if c.server == nil {
		return nil
	}
	return c.server.healthy()
}

// outage is the time in which the server does not do what a caller asks for. It is logged when it begins and when it ends, and
// the heartbeats of this process show it.
type outage struct {
	conn *Conn
	what string
	why  error
	from time.Time // zero before the first failure
}

// failed records a failure of the request.
func (o *outage) failed(err error) {
	first := o.from.IsZero()
	o.conn.outages.add(o, err)
	if first {
		o.conn.log.Warn().Err(err).Msgf("cannot %s: waiting for the NATS server", o.what)
	} else {
		o.conn.log.Debug().Err(err).Msgf("still cannot %s", o.what)
	}
}

// over ends the outage, if it has begun: the caller has its answer, or no longer waits.
func (o *outage) over() {
	if !o.from.IsZero() {
		o.conn.outages.remove(o)
		o.conn.log.Info().Dur("waited", time.Since(o.from)).Msgf("no longer waiting to %s", o.what)
		o.from = time.Time{}
	}
}

// outages are the outages of a connection that last, oldest first.
type outages struct {
	mu  sync.Mutex
	all []*outage
}

func (all *outages) add(o *outage, why error) {
	all.mu.Lock()
	defer all.mu.Unlock()
	if o.why = why; o.from.IsZero() {
		o.from = time.Now()
		all.all = append(all.all, o)
	}
}

func (all *outages) remove(o *outage) {
	all.mu.Lock()
	defer all.mu.Unlock()
	all.all = slices.DeleteFunc(all.all, func(other *outage) bool { return other == o })
}

// detail describes the oldest outage for a heartbeat. It is empty when there is none.
func (all *outages) detail() string {
	all.mu.Lock()
	defer all.mu.Unlock()
	if len(all.all) == 0 {
		return ""
	}
	o := all.all[0]
	return fmt.Sprintf("cannot %s since %s UTC: %v", o.what, o.from.UTC().Format(time.TimeOnly), o.why)
}
