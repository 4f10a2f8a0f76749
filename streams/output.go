package streams

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/ldalign/ldalign/schemas"
)

// sealed is a message ready for the stream of a kind.
type sealed struct {
	kind schemas.Kind
	msg  *nats.Msg
}

// sealAll seals the outputs of one input, all or none.
func (r *runner) sealAll(out []Emit, in *input) ([]sealed, error) {
	all := make([]sealed, len(out))
	for i, e := range out {
		msg, err := seal(e.Kind, e.Msg)
		if errors.Is(err, ErrTooLarge) {
			return nil, &schemas.Reject{Reason: schemas.ReasonTooLarge, Err: err}
		}
		if err != nil {
			return nil, fmt.Errorf("streams: output: %w", err)
		}
		if e.Kind.CarriesPair() {
			msg.Header.Set(headerParent, parent(r.stage.In, in.meta.Sequence.Stream))
		}
		if r.stage.Libtorch != "" {
			msg.Header.Set(headerLibtorch, r.stage.Libtorch)
		}
		all[i] = sealed{e.Kind, msg}
	}
	return all, nil
}

// publishUnstored publishes the outputs of a batch. When one input has more outputs than a window, it leaves out those that the
// log already holds. Fewer outputs are published again in any case: looking them up costs more than the copies that readers drop.
func (r *runner) publishUnstored(work context.Context, done []*input, out []sealed) error {
	if len(done) == 1 && len(out) > window {
		var err error
		if out, err = r.unstored(work, out); err != nil {
			return err
		}
	}
	return r.publish(work, out)
}

// unstored returns the outputs that the log does not hold. The log may hold outputs of a worker that died before it acknowledged
// the input, perhaps so long ago that the server has forgotten their ids.
func (r *runner) unstored(work context.Context, out []sealed) ([]sealed, error) {
	have := map[string]map[string]uint64{} // by subject
	var rest []sealed
	for _, s := range out {
		subject := s.msg.Subject
		if have[subject] == nil {
			_, run, iteration, err := schemas.ParseSubject(subject)
			if err == nil {
				have[subject], err = r.firsts(work, s.kind, run, iteration)
			}
			if err != nil {
				return nil, fmt.Errorf("streams: stage %s: list what is stored on %s: %w", r.stage.Name, subject, err)
			}
		}
		if _, stored := have[subject][s.msg.Header.Get(headerID)]; !stored {
			rest = append(rest, s)
		}
	}
	return rest, nil
}

// publish stores outputs in order. It sends consecutive messages of one kind together, a window at a time, and waits until they
// are stored before it sends the next kind, so that a message that closes an iteration never precedes the iteration's prompts.
func (r *runner) publish(work context.Context, out []sealed) error {
	for len(out) > 0 {
		kind := out[0].kind
		var same []*nats.Msg
		for len(out) > 0 && out[0].kind == kind && len(same) < window {
			same, out = append(same, out[0].msg), out[1:]
		}
		if err := r.send(work, kind, same); err != nil {
			return fmt.Errorf("streams: stage %s: %w", r.stage.Name, err)
		}
		r.heartbeat.Move()
	}
	return nil
}
