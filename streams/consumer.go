package streams

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ldalign/ldalign/schemas"
)

// ensureConsumers creates the stage's consumers, or opens those that exist.
func (r *runner) ensureConsumers(ctx context.Context) (err error) {
	if r.consumer, err = r.ensureConsumer(ctx, r.stage.Run, r.stage.consumer(r.limits)); err != nil || r.stage.Source == nil {
		return err
	}
	r.source, err = r.ensureConsumer(ctx, r.stage.Source.Run, r.stage.sourceConsumer(r.limits))
	return err
}

// ensureConsumer creates a consumer in the log of a run, or opens the one that exists, and checks its configuration.
func (r *runner) ensureConsumer(ctx context.Context, run string, want jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	name := StreamName(r.stage.In, run)
	o := outage{conn: r.Conn, what: fmt.Sprintf("reach consumer %s of %s", want.Durable, name)}
	defer o.over()
	for try := 1; ; try++ {
		asking, cancel := context.WithTimeout(ctx, askTimeout)
		have, err := r.js.Consumer(asking, name, want.Durable)
		if err == nil { // a restored consumer begins after what was settled: keep its start
			want.DeliverPolicy, want.OptStartSeq = have.CachedInfo().Config.DeliverPolicy, have.CachedInfo().Config.OptStartSeq
		}
		consumer, err := r.js.CreateOrUpdateConsumer(asking, name, want)
		var info *jetstream.ConsumerInfo
		if err == nil { // ask again: a server that has just restarted answers an update with the old configuration
			info, err = consumer.Info(asking)
		}
		cancel()
		switch {
		case err == nil:
			have := info.Config
			if have.AckWait != want.AckWait || have.MaxDeliver != want.MaxDeliver || len(have.BackOff) > 0 {
				return nil, fmt.Errorf("%w: consumer %s: ack wait %v, max deliver %d, backoff %v",
					ErrTopology, want.Durable, have.AckWait, have.MaxDeliver, have.BackOff)
			}
			return consumer, nil
		case errors.Is(err, jetstream.ErrStreamNotFound):
			return nil, fmt.Errorf("streams: stage %s: %w", r.stage.Name, noRun(run))
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case r.nc.IsClosed():
			return nil, fmt.Errorf("streams: stage %s: %w", r.stage.Name, err)
		}
		if err := r.denied.of("." + name + "." + want.Durable); err != nil {
			return nil, fmt.Errorf("streams: stage %s: %w", r.stage.Name, err)
		}
		o.failed(err)
		if !pause(ctx, r.askPause(try)) {
			return nil, ctx.Err()
		}
	}
}

// consumer is the durable that all processes of the stage share. The server never gives up a message (MaxDeliver -1), because
// the message would then stay in the log unprocessed and uncounted. The runner gives it up, by writing a dead letter.
func (s Stage) consumer(l Limits) jetstream.ConsumerConfig {
	c := jetstream.ConsumerConfig{
		Durable:       s.Name,
		FilterSubject: schemas.RunSubjects(s.In, s.Run),
		DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       l.AckWait,
		MaxDeliver:    -1,
		// Each worker bounds the messages that it holds by what it asks for. With a bound here, workers that together ask for
		// more would wait for the rest of a batch that the server may not give them.
		MaxAckPending: -1,
	}
	if s.Source != nil { // in a replay, the run's own log has only redriven dead letters
		c.Durable = fmt.Sprintf("%s-%d", s.Name, s.Iterations[0]) // a stage's name has no hyphen
		c.FilterSubject, c.FilterSubjects = "", s.subjects(s.Run)
		c.Metadata = map[string]string{sourceKey: s.Source.Run}
	}
	return c
}

// sourceConsumer is the stage's durable in the log of its source.
func (s Stage) sourceConsumer(l Limits) jetstream.ConsumerConfig {
	c := s.consumer(l)
	c.Durable, c.Metadata = c.Durable+"_"+s.Run, nil
	c.FilterSubjects = s.subjects(s.Source.Run)
	c.DeliverPolicy, c.OptStartSeq = jetstream.DeliverByStartSequencePolicy, s.Source.First
	return c
}

// subjects returns the subjects of the stage's iterations in a run.
func (s Stage) subjects(run string) []string {
	var out []string
	for _, i := range s.Iterations {
		out = append(out, schemas.Subject(s.In, run, i))
	}
	return out
}
