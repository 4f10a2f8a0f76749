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

// TrainerProgress publishes that the trainer has taken n pairs of an iteration: trained them, skipped them, or found them dead.
// Stages with MaxInFlight publish more when n grows. The greatest n of an iteration counts, so a trainer that resumes from an
// earlier state may publish smaller numbers again.
func (c *Conn) TrainerProgress(ctx context.Context, run string, iteration uint32, n int) error {
	return c.Publish(ctx, schemas.Control, &events.Control{
		Schema: events.Version, Run: run, Kind: events.ControlTrainerProgress, Iteration: iteration, Total: uint64(n),
	})
}

// pace publishes the outputs of a batch. With MaxInFlight it publishes them as the trainer takes the pairs that they become. It
// counts outputs that an earlier worker has already stored, and does not send them again, because the server may have forgotten
// their ids. all is false when the stage ends or is paused before everything is published.
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

// pairsIn returns how many of the outputs carry a pair.
func pairsIn(out []sealed) int {
	n := 0
	for _, o := range out {
		if o.kind.CarriesPair() {
			n++
		}
	}
	return n
}

// pacer tracks how many outputs of a message are published and how many the trainer has taken.
type pacer struct {
	ahead            int
	left             []sealed
	published, taken int
}

// next returns the outputs that may be published now: all of one kind, at most a window.
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

// pass publishes what is left. all is false when the stage ends or is paused, or lost closes, before everything is published.
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
