package streams

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// TrainerProgress stores that the trainer has taken n pairs of an iteration: trained them, skipped them, or found them
// dead. Stages with MaxInFlight go on by it. It may be told again, and a smaller number after a greater one, as by a
// trainer that goes on from an earlier state: the greatest counts.
func (c *Conn) TrainerProgress(ctx context.Context, run string, iteration uint32, n int) error {
	return c.Publish(ctx, schemas.Control, &events.Control{
		Schema: events.Version, Run: run, Kind: events.ControlTrainerProgress, Iteration: iteration, Total: uint64(n),
	})
}

// pace publishes the outputs of a batch, those of a stage with MaxInFlight as the trainer takes what they become. What the log
// has already, by a worker that held the message before, is counted and not sent again: it may have been stored longer ago
// than ids are remembered. all is false when the stage is told to end or to pause before everything is published.
func (r *runner) pace(work context.Context, done []*input, out []sealed) (all bool, err error) {
	if r.stage.MaxInFlight == nil || len(done) == 0 || len(out) == 0 {
		return true, r.publishUnstored(work, done, out)
	}
	iteration := done[0].body.GetIteration()
	ahead := r.stage.MaxInFlight(iteration)
	if ahead == 0 {
		return true, r.publishUnstored(work, done, out)
	}
	left, err := r.unstored(work, out)
	if err != nil {
		return false, ended(work, err)
	}
	p := pacer{ahead: ahead, left: left, published: pairsIn(out) - pairsIn(left)}
	following, cancel := context.WithCancel(work)
	defer cancel()
	group, following := errgroup.WithContext(following)
	taken := make(chan int)
	group.Go(func() error {
		return r.Follow(following, schemas.Control, r.stage.Run, int(iteration), 0, func(m Received) error {
			if c, ok := m.Message.(*events.Control); !ok || c.GetKind() != events.ControlTrainerProgress {
				return nil
			}
			select {
			case taken <- int(m.Message.(*events.Control).GetTotal()):
				return nil
			case <-following.Done():
				return following.Err()
			}
		})
	})
	all, err = r.pass(work, following.Done(), &p, taken)
	cancel()
	if followed := group.Wait(); err == nil && !all && !errors.Is(followed, context.Canceled) {
		err = followed
	}
	return all, ended(work, err)
}

// pairsIn is how many of the outputs carry a pair.
func pairsIn(out []sealed) int {
	n := 0
	for _, o := range out {
		if o.kind.CarriesPair() {
			n++
		}
	}
	return n
}

// pacer is how far the outputs of a message have come.
type pacer struct {
	ahead            int
	left             []sealed
	published, taken int
}

// next are outputs that may be published now: all of one kind, a window at most.
func (p *pacer) next() []sealed {
	n := 0
	for n < len(p.left) && n < window && p.left[n].kind == p.left[0].kind {
		if p.left[n].kind.CarriesPair() && p.published+n >= p.taken+p.ahead {
			break
		}
		n++
	}
	return p.left[:n]
}

// pass publishes what is left; false when the stage is told to end or to pause, or lost closes, before that is all.
func (r *runner) pass(work context.Context, lost <-chan struct{}, p *pacer, taken <-chan int) (all bool, err error) {
	look := time.NewTicker(r.beat())
	defer look.Stop()
	for len(p.left) > 0 {
		if part := p.next(); len(part) > 0 {
			if err := r.publish(work, part); err != nil {
				return false, err
			}
			p.left = p.left[len(part):]
			p.published += pairsIn(part)
			r.heartbeat.Say(StateWorking, fmt.Sprintf("%d %s published", p.published, part[0].kind))
			r.heartbeat.Move()
		} else {
			r.heartbeat.Say(StateBackPressure, fmt.Sprintf("the trainer has taken %d of %d %s: streams.max_in_flight is %d",
				p.taken, p.published, p.left[0].kind, p.ahead))
			select {
			case n := <-taken:
				p.taken = max(p.taken, n)
			case <-look.C:
			case <-lost:
				return false, nil
			case <-r.ending:
			}
		}
		select {
		case <-r.ending:
			return false, nil
		default:
		}
		if _, paused := r.heartbeat.Paused(); paused {
			return false, nil
		}
	}
	return true, nil
}
