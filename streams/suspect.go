package streams

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"
)

// trialBucket counts how often a process began to work on a suspect and did not finish.
const trialBucket = "ldalign-trials"

// deadlyFactor times MaxDeliver is how many processes in a row may die while working on one message.
const deadlyFactor = 2

// try processes suspects: messages that were delivered more than MaxDeliver times and never settled, because the workers that
// had them died. Most suspects are harmless; their workers were restarted or died of another message in the batch. So try
// processes each suspect alone and records the beginning and the end in the server's store. A message whose processing begins
// again and again but never ends is the one that kills the workers.
func (r *runner) try(work context.Context, suspects []*input) error {
	for _, in := range suspects {
		if over(work) {
			return nil
		}
		trial, err := r.begin(work, in)
		if err != nil {
			r.log.Warn().Err(err).Uint64("seq", in.meta.Sequence.Stream).Msg("cannot record the trial of a message, giving it back")
			pause(work, r.limits.backoff(1))
			return nil
		}
		if trial.deaths >= deadlyFactor*r.limits.MaxDeliver {
			err = r.bury(work, []letter{{in, poison(fmt.Errorf(
				"delivered %d times and never settled: %d processes in a row died or were stuck while working on it",
				in.meta.NumDelivered, trial.deaths)), trial.deaths}})
		} else {
			err = r.run(work, []*input{in}, nil)
		}
		r.end(work, trial)
		if err != nil {
			return err
		}
	}
	return nil
}

// trial is one suspect's processing.
type trial struct {
	key string
	// revision of the count in the bucket.
	revision uint64
	// deaths is how many earlier trials did not end.
	deaths int
}

// begin counts a trial in the server's store, where the count survives the death of this process.
func (r *runner) begin(ctx context.Context, in *input) (trial, error) {
	kv, err := r.bucket(ctx, trialBucket)
	if err != nil {
		return trial{}, err
	}
	t := trial{key: fmt.Sprintf("%s.%s.%s.%d", r.stage.Name, r.stage.Run, in.meta.Stream, in.meta.Sequence.Stream)}
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
	t.revision, err = kv.Put(ctx, t.key, []byte(strconv.Itoa(t.deaths+1)))
	return t, err
}

// end deletes the count, because the process survived. If that fails the count is one too high, which is harmless.
func (r *runner) end(ctx context.Context, t trial) {
	_ = r.forget(context.WithoutCancel(ctx), trialBucket, t.key, t.revision)
}
