package streams

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// settle processes every message of a batch and settles it. Messages that it leaves unsettled because work has ended are given
// back by the batch's release.
func (r *runner) settle(work context.Context, b *batch) error {
	healthy, suspect, letters := r.sort(b.inputs)
	if err := r.bury(work, letters); err != nil {
		return err
	}
	if len(healthy)+len(suspect)+len(letters) == 0 && r.newer != "" {
		r.rest()
		pause(work, r.limits.backoff(1)) // leave the messages to newer workers
		return nil
	}
	if len(healthy) > 0 {
		r.newer = ""
		feed := &feed{runner: r, batch: b, room: r.stage.Refill}
		if err := r.run(work, healthy, feed); err != nil {
			return err
		}
		if err := r.bury(work, feed.letters); err != nil {
			return err
		}
		suspect = append(suspect, feed.suspect...)
	}
	return r.try(work, suspect)
}

// sort decodes messages and divides them: healthy ones are processed together, suspect ones may have killed a worker and are
// processed alone, and letters cannot be processed. It gives back messages that only a newer program can read.
func (r *runner) sort(inputs []*input) (healthy, suspect []*input, letters []letter) {
	for _, in := range inputs {
		var err error
		switch in.body, err = open(in.Subject(), in.Data()); {
		case err == nil && !r.stage.adopted(in):
			r.acknowledge(in, Done)
		case errors.Is(err, ErrNewer):
			r.leave(in, err)
		case err != nil:
			letters = append(letters, letter{in: in, err: err})
		case r.stage.beyond(in.body):
			letters = append(letters, letter{in: in, err: &schemas.Reject{Reason: schemas.ReasonIteration, Err: fmt.Errorf(
				"iteration %d of a run that has %d", in.body.GetIteration(), r.stage.End)}})
		case in.meta.NumDelivered > uint64(r.limits.MaxDeliver) && r.stage.MaxInFlight == nil:
			suspect = append(suspect, in)
		default:
			healthy = append(healthy, in)
		}
	}
	return healthy, suspect, letters
}

// run processes messages together, with those that more adds (nil for none), and settles them by their outcomes.
func (r *runner) run(work context.Context, in []*input, more *feed) error {
	if over(work) {
		return nil
	}
	in, outcomes := r.call(work, in, more)
	for try := 1; !over(work); try++ {
		cause := unable(outcomes)
		if cause == nil {
			break
		}
		if giveUp, err := r.wait(work, cause, in, try); giveUp || err != nil {
			return err // the batch's release gives back everything
		}
		in, outcomes = r.call(work, in, nil)
	}
	if len(in) > 1 && allFailed(outcomes) && !over(work) {
		r.log.Warn().Err(outcomes[0].Err).Int("messages", len(in)).Msg("whole batch failed, processing it one by one")
		return r.runSingly(work, in)
	}
	var done, alone []*input
	var out []sealed
	var letters []letter
	for i, o := range outcomes {
		in := in[i]
		if o.Err == nil {
			var more []sealed
			if more, o.Err = r.sealAll(o.Out, in); o.Err == nil {
				done, out = append(done, in), append(out, more...)
				continue
			}
		}
		if over(work) {
			continue // it failed because work ended: it is given back and no try is counted
		}
		if reject := new(schemas.Reject); errors.As(o.Err, &reject) {
			letters = append(letters, letter{in, o.Err, r.failures[in.place()] + 1})
			continue
		}
		seq := in.meta.Sequence.Stream
		r.failures[in.place()]++
		switch tries := r.failures[in.place()]; {
		case tries < r.limits.MaxDeliver:
			r.log.Warn().Err(o.Err).Uint64("seq", seq).Int("try", tries).Msg("message failed, trying again later")
			r.settled(in, Retried)
			r.answer(in, in.NakWithDelay(r.limits.backoff(tries)))
		case len(outcomes) > 1:
			alone = append(alone, in)
		default:
			letters = append(letters, letter{in, poison(o.Err), tries})
		}
	}
	if all, err := r.pace(work, done, out); err != nil || !all {
		return err // the batch's release gives back messages whose outputs are not all published
	}
	for _, in := range done {
		r.acknowledge(in, Done)
	}
	if err := r.bury(work, letters); err != nil {
		return err
	}
	return r.runSingly(work, alone)
}

// leave gives a message back that only a newer program can read. The pause before the next delivery grows with each one.
func (r *runner) leave(in *input, err error) {
	if r.newer == "" {
		r.log.Warn().Err(err).Uint64("seq", in.meta.Sequence.Stream).Str("version", r.version).
			Msg("this worker is older than the program that wrote a message: it leaves such messages to newer workers")
	}
	r.newer = text(err, maxDetail)
	r.settled(in, Retried)
	r.answer(in, in.NakWithDelay(r.limits.backoff(int(min(in.meta.NumDelivered, holdTries)))))
}

func (r *runner) runSingly(work context.Context, in []*input) error {
	for _, one := range in {
		if err := r.run(work, []*input{one}, nil); err != nil {
			return err
		}
	}
	return nil
}

// call calls Process. It turns a panic, or a wrong number of outcomes, into a failure of every message.
func (r *runner) call(work context.Context, in []*input, more *feed) (all []*input, out []Outcome) {
	start := time.Now()
	defer func() {
		if more != nil {
			in = append(in, more.in...)
			more.in = nil
		}
		if cause := recover(); cause != nil {
			out = failed(len(in), fmt.Errorf("panic: %v\n%s", cause, debug.Stack()))
		} else {
			r.stage.Observer.Batch(BatchDone{r.stage.id(), len(in), time.Since(start)})
		}
		if len(out) != len(in) {
			out = failed(len(in), fmt.Errorf("stage %s returned %d outcomes for %d messages", r.stage.Name, len(out), len(in)))
		}
		all = in
	}()
	out = r.process(work, bodies(in), func(n int) []events.Message {
		if more == nil {
			return nil
		}
		return more.more(n)
	})
	return in, out
}

// failed returns n outcomes with the same error.
func failed(n int, err error) []Outcome {
	out := make([]Outcome, n)
	for i := range out {
		out[i].Err = err
	}
	return out
}

func allFailed(outcomes []Outcome) bool {
	for _, o := range outcomes {
		reject := new(schemas.Reject)
		if o.Err == nil || errors.As(o.Err, &reject) {
			return false
		}
	}
	return true
}

func (r *runner) acknowledge(in *input, outcome string) {
	r.heartbeat.Did(1)
	delete(r.failures, in.place())
	r.settled(in, outcome)
	r.answer(in, in.Ack())
}

// answer logs an acknowledgement that could not be sent. The server then delivers the message again, which is harmless.
func (r *runner) answer(in *input, err error) {
	if err != nil {
		r.log.Warn().Err(err).Uint64("seq", in.meta.Sequence.Stream).Msg("acknowledgement not sent")
	}
}
