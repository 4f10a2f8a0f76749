package streams

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"
)

// trialBucket counts how often a process began to work on a suspect and did not come back.
const trialBucket = "ldalign-trials"

// deadlyFactor times MaxDeliver is how many processes in a row may die of one message.
const deadlyFactor = 2

// try processes suspects: messages that were delivered more than MaxDeliver times and never settled, because whoever
// worked on them died. Most are innocent, victims of restarts or of a neighbour in their batch. So each is processed
// alone, and the server is told before and after: a message whose processing was begun again and again and never came
// to an end is what the processes died of.
func (r *runner) try(work context.Context, suspects []*input) error {
	for _, in := range suspects {
		if over(work) {
			return nil
		}
		trial, err := r.begin(work, in)
		if err != nil {
			r.log.Warn().Err(err).Uint64("seq", in.meta.Sequence.Stream).Msg("cannot count a trial, giving it back")
			pause(work, r.limits.backoff(1))
			return nil
		}
		if trial.deaths >= deadlyFactor*r.limits.MaxDeliver {
			err = r.bury(work, []letter{{in, poison(fmt.Errorf(
				"delivered %d times and never settled: %d processes in a row died of it",
				in.meta.NumDelivered, trial.deaths)), trial.deaths}})
		} else {
			err = r.run(work, []*input{in}, nil)
		}
		trial.end(work)
		if err != nil {
			return err
		}
	}
	return nil
}

// trial is one suspect's processing.
type trial struct {
	kv  jetstream.KeyValue
	key string
	// deaths is how many trials before this one did not end.
	deaths int
}

// begin counts a trial, in the server's store, so that this process may die of it.
func (r *runner) begin(ctx context.Context, in *input) (trial, error) {
	kv, err := r.bucket(ctx, trialBucket, "messages that processes may have died of", r.limits.MaxAge)
	if err != nil {
		return trial{}, err
	}
	t := trial{kv: kv, key: fmt.Sprintf("%s.%s.%s.%d", r.stage.Name, r.stage.Run, in.meta.Stream, in.meta.Sequence.Stream)}
	entry, err := kv.Get(ctx, t.key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
	case err != nil:
		return trial{}, err
	default:
		if t.deaths, err = strconv.Atoi(string(entry.Value())); err != nil {
			return trial{}, fmt.Errorf("%s in %s: %w", t.key, trialBucket, err)
		}
	}
	_, err = kv.Put(ctx, t.key, []byte(strconv.Itoa(t.deaths+1)))
	return t, err
}

// end takes the count back: the process lives. If that fails the count is one too high, which harms nobody.
func (t trial) end(ctx context.Context) {
	_ = t.kv.Purge(context.WithoutCancel(ctx), t.key)
}
