package streams

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// pullHeartbeat is how often the server tells a waiting stage that it is there; two misses and the stage asks
	// again.
	pullHeartbeat = time.Second
)

// fill takes a batch: what is there; else it waits for a first message; then it lingers for more. It asks the server
// for no more than it has room for and lets the server end each request, so that nothing is under way that is not in
// hand.
func (r *runner) fill(ctx context.Context, b *batch) error {
	if err := r.takeThere(b, r.stage.Batch); err != nil {
		return r.pullFailed(ctx, err)
	}
	for len(b.inputs) == 0 && !over(ctx) {
		r.rest()
		if err := r.take(b, func() (jetstream.MessageBatch, error) { return r.await(ctx) }); err != nil {
			if err := r.pullFailed(ctx, err); err != nil {
				return err
			}
		}
		if r.source != nil && len(b.inputs) == 0 { // what was given back comes there
			if err := r.takeThere(b, r.stage.Batch); err != nil {
				return r.pullFailed(ctx, err)
			}
		}
	}
	missing := r.stage.Batch - len(b.inputs)
	if missing == 0 || over(ctx) {
		return nil
	}
	err := r.linger(b, missing)
	if err != nil {
		r.log.Debug().Err(err).Msg("going on with a part-filled batch")
	}
	return nil
}

// takeThere adds to the batch up to n messages that are there now: of a replay's source, then of the run's own log.
func (r *runner) takeThere(b *batch, n int) error {
	for _, consumer := range []jetstream.Consumer{r.source, r.consumer} {
		had := len(b.inputs)
		if consumer == nil || n <= 0 {
			continue
		}
		if err := r.take(b, func() (jetstream.MessageBatch, error) { return consumer.FetchNoWait(n) }); err != nil {
			return err
		}
		n -= len(b.inputs) - had
	}
	return nil
}

// await waits for a message: of a stage with a source, which is to look there again, not for long.
func (r *runner) await(ctx context.Context) (jetstream.MessageBatch, error) {
	if r.source != nil {
		return r.consumer.Fetch(1, jetstream.FetchMaxWait(r.beat()))
	}
	return r.consumer.Fetch(1, jetstream.FetchContext(ctx), jetstream.FetchHeartbeat(pullHeartbeat))
}

// linger takes what comes within the stage's Linger.
func (r *runner) linger(b *batch, n int) error {
	if r.stage.Linger == 0 || r.source != nil { // a source has all that it will have
		return r.takeThere(b, n)
	}
	return r.take(b, func() (jetstream.MessageBatch, error) {
		return r.consumer.Fetch(n, jetstream.FetchMaxWait(r.stage.Linger))
	})
}

// take adds to the batch what one request brings.
func (r *runner) take(b *batch, fetch func() (jetstream.MessageBatch, error)) error {
	got, err := fetch()
	if err != nil {
		return err
	}
	for msg := range got.Messages() {
		meta, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("streams: stage %s: %w", r.stage.Name, err)
		}
		b.add(&input{Msg: msg, meta: meta})
	}
	return got.Error()
}

// rest says why the stage has nothing in hand.
func (r *runner) rest() {
	if n := len(r.failures); n > 0 {
		r.heartbeat.Say(StateRetrying, fmt.Sprintf("%d messages that failed", n))
		return
	}
	r.heartbeat.Say(StateIdle, "waiting for "+string(r.stage.In))
}

// pullFailed does what an error of a request calls for; it returns the error when nothing can be done.
func (r *runner) pullFailed(ctx context.Context, err error) error {
	switch {
	case over(ctx):
		return nil
	case r.nc.IsClosed():
		return fmt.Errorf("streams: stage %s: %w", r.stage.Name, err)
	case errors.Is(err, jetstream.ErrNoHeartbeat):
		r.stage.Observer.Silent(r.stage.id())
		r.heartbeat.Say(StateRetrying, "the server missed its heartbeats")
		r.log.Warn().Msg("the server missed its heartbeats, asking again")
	default:
		r.log.Warn().Err(err).Msg("pull failed, asking again")
		r.heartbeat.Say(StateRetrying, "pull failed: "+err.Error())
		if !pause(ctx, r.limits.backoff(1)) {
			return nil
		}
	}
	// A consumer that was deleted, or lost with its server, comes back from its declared form.
	return ended(ctx, r.ensureConsumers(ctx))
}
