package streams

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// pullHeartbeat is how often the server sends a heartbeat to a waiting stage. After two missed ones the stage pulls again.
	pullHeartbeat = time.Second
)

// fill fills a batch. It takes the messages that are there, waits for the first one when there are none, and then lingers for
// more. It asks for no more messages than fit into the batch and lets the server end each request, so that no message is
// delivered after fill has returned.
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
		if r.source != nil && len(b.inputs) == 0 { // the source delivers messages that were given back
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
		r.log.Debug().Err(err).Msg("continuing with a partly filled batch")
	}
	return nil
}

// takeThere adds up to n messages that are available now to the batch: from a replay's source, then from the run's own log.
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

// await waits for a message. A stage with a source waits only for a short time, because it also has to look into the source.
func (r *runner) await(ctx context.Context) (jetstream.MessageBatch, error) {
	if r.source != nil {
		return r.consumer.Fetch(1, jetstream.FetchMaxWait(r.beat()))
	}
	return r.consumer.Fetch(1, jetstream.FetchContext(ctx), jetstream.FetchHeartbeat(pullHeartbeat))
}

// linger takes what arrives within the stage's Linger.
func (r *runner) linger(b *batch, n int) error {
	if r.stage.Linger == 0 || r.source != nil { // a source does not grow
		return r.takeThere(b, n)
	}
	return r.take(b, func() (jetstream.MessageBatch, error) {
		return r.consumer.Fetch(n, jetstream.FetchMaxWait(r.stage.Linger))
	})
}

// take adds the messages of one request to the batch.
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

// rest announces why the stage has no messages.
func (r *runner) rest() {
	if r.newer != "" {
		r.heartbeat.Say(StateWaiting, r.newer)
		return
	}
	if n := len(r.failures); n > 0 {
		r.heartbeat.Say(StateRetrying, fmt.Sprintf("%d messages that failed", n))
		return
	}
	r.heartbeat.Say(StateIdle, "waiting for "+string(r.stage.In))
}

// pullFailed handles the error of a request. It returns an error only when the stage cannot continue.
func (r *runner) pullFailed(ctx context.Context, err error) error {
	denied := r.denied.of("." + StreamName(r.stage.In, r.stage.Run) + "." + r.stage.consumer(r.limits).Durable)
	switch {
	case over(ctx):
		return nil
	case denied != nil:
		return fmt.Errorf("streams: stage %s: %w", r.stage.Name, denied)
	case r.nc.IsClosed():
		return fmt.Errorf("streams: stage %s: %w", r.stage.Name, err)
	case errors.Is(err, jetstream.ErrNoHeartbeat):
		r.stage.Observer.Silent(r.stage.id())
		r.heartbeat.Say(StateRetrying, "the server missed its heartbeats")
		r.log.Warn().Msg("the server missed its heartbeats, trying again")
	default:
		r.log.Warn().Err(err).Msg("pull failed, trying again")
		r.heartbeat.Say(StateRetrying, "pull failed: "+err.Error())
		if !pause(ctx, r.limits.backoff(1)) {
			return nil
		}
	}
	// Recreate a consumer that was deleted or lost with its server.
	return ended(ctx, r.ensureConsumers(ctx))
}
