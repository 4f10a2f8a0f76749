package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
)

// Collected is a complete iteration.
type Collected struct {
	// Messages are unique by id and ordered by their prompts' positions.
	Messages []events.Message
	// Seqs are the positions of Messages in the log, in the same order.
	Seqs []uint64
	// Dead is the number of pairs that ended as dead letters.
	Dead int
	// First and Last are the lowest and the highest of Seqs; 0 when there are none.
	First, Last uint64
}

// Collect waits until an iteration is complete and returns its messages of a kind (prompts, pairs, encoded or scored). An
// iteration is complete when it is closed (the control message "closed" announces the total) and each of its pairs has either a
// message of that kind or a dead letter.
//
// Of a message that is stored twice only the first copy counts. A redriven dead letter does not count; its pair counts again when
// it arrives or becomes a dead letter again. A dead letter whose pair has no prompt never counts. Messages of that kind that
// cannot be decoded become dead letters of the stage "trainer", so the iteration completes without them.
//
// onProgress, if not nil, is called with the number of pairs accounted for and the total, which is 0 while the iteration is open.
func Collect(ctx context.Context, conn *streams.Conn, kind schemas.Kind, run string, iteration uint32,
	onProgress func(have, total int),
) (Collected, error) {
	if onProgress == nil {
		onProgress = func(int, int) {}
	}
	t, err := gather(ctx, conn, kind, run, iteration, func(a Arrival) error {
		onProgress(a.Have, a.Total)
		return nil
	})
	return t.collected(), err
}

// Arrival is a change in an iteration that Arrivals follows.
type Arrival struct {
	// Received is a message of the followed kind. Its Message is nil for any other change.
	streams.Received
	// Have is the number of pairs accounted for. Total is the number of pairs; 0 while the iteration is open.
	Have, Total int
}

// Arrivals follows an iteration until it is complete (see Collect). It calls f with the first copy of each message of the kind,
// in the order of the log, and also, with a nil Message, after dead letters and when the iteration is closed. An error of f ends
// it and is returned.
func Arrivals(
	ctx context.Context, conn *streams.Conn, kind schemas.Kind, run string, iteration uint32, f func(Arrival) error,
) error {
	_, err := gather(ctx, conn, kind, run, iteration, f)
	return err
}

// arrivalsAhead is how many messages are read ahead.
const arrivalsAhead = 128

// gather follows an iteration until it is complete.
func gather(
	ctx context.Context, conn *streams.Conn, kind schemas.Kind, run string, iteration uint32, f func(Arrival) error,
) (tally, error) {
	t := tally{messages: map[string]streams.Received{}, dead: map[string]bool{}}
	if !kind.CarriesPair() {
		return t, fmt.Errorf("streams: collect: %s has no pairs", kind)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, reading := errgroup.WithContext(ctx)
	arrivals := make(chan streams.Received, arrivalsAhead)
	for _, k := range []schemas.Kind{schemas.Control, schemas.DeadLetters, kind} {
		group.Go(func() error {
			p := streams.Part{Kind: k, Run: run, Iteration: int(iteration), Follow: true}
			return conn.Scan(reading, p, func(e streams.Entry) error {
				m, err := e.Open()
				if err != nil && k == kind && !errors.Is(err, streams.ErrNewer) {
					return conn.Bury(reading, streams.LetterOf("trainer", e, err)) // it arrives again as a dead letter
				}
				if err != nil {
					return conn.PassOver(e, err)
				}
				select {
				case arrivals <- e.Received(m):
					return nil
				case <-reading.Done():
					return reading.Err()
				}
			})
		})
	}
	for {
		arrival := Arrival{}
		select {
		case r := <-arrivals:
			if t.add(r) {
				arrival.Received = r
			}
		case <-reading.Done():
			return t, group.Wait()
		}
		arrival.Have, arrival.Total = t.have(), t.total
		told := f(arrival)
		complete, err := t.complete()
		if (complete || err != nil) && len(t.dead) > 0 && told == nil {
			// A dead letter may have been redriven since it was read, or its pair may not belong to the iteration.
			if complete, err = confirm(ctx, conn, &t, run, iteration); err == nil && !complete {
				told = f(Arrival{Have: t.have(), Total: t.total})
			}
		}
		if err != nil {
			err = fmt.Errorf("streams: collect %s of run %s, iteration %d: %w", kind, run, iteration, err)
		}
		if err = cmp.Or(told, err); complete || err != nil {
			cancel()
			_ = group.Wait() // it returns the context's error
			return t, err
		}
	}
}

// confirm reads the iteration's dead letters again, and leaves out those whose pair has no prompt: a message that another program
// has put on a stream must not count in place of a pair in flight. When prompts are missing from the log, as in a replay, whose
// prompts are in its source's log, every dead letter counts.
func confirm(ctx context.Context, conn *streams.Conn, t *tally, run string, iteration uint32) (bool, error) {
	letters, err := letters(ctx, conn, run, int(iteration))
	if err != nil {
		return false, err
	}
	asked, _, err := idsIn(ctx, conn, streams.Source{Run: run, Kind: schemas.Prompts}, iteration)
	if err != nil {
		return false, err
	}
	all := len(asked) >= t.total
	if all {
		t.total = len(asked) // this includes undecodable entries among the prompts, which have dead letters too
	}
	clear(t.dead)
	for _, l := range letters {
		if !all || asked[l.GetPairId()] {
			t.addLetter(l.DeadLetter)
		}
	}
	return t.complete()
}

// tally is what Collect and Recall know of an iteration.
type tally struct {
	messages map[string]streams.Received
	dead     map[string]bool // pairs with a dead letter and no message
	closed   bool
	total    int
}

// add records a message and reports whether it is the first copy of a pair.
func (t *tally) add(r streams.Received) bool {
	switch m := r.Message.(type) {
	case *events.Control:
		if m.GetKind() == events.ControlClosed {
			t.closed, t.total = true, int(m.GetTotal())
		}
	case *events.DeadLetter:
		t.addLetter(m)
	default:
		id := m.ID()
		delete(t.dead, id)
		if _, have := t.messages[id]; !have {
			t.messages[id] = r
			return true
		}
	}
	return false
}

func (t *tally) addLetter(d *events.DeadLetter) {
	id := d.GetPairId()
	if _, have := t.messages[id]; !have && id != "" {
		t.dead[id] = true
	}
}

func (t *tally) have() int { return len(t.messages) + len(t.dead) }

func (t *tally) complete() (bool, error) {
	if t.closed && t.have() > t.total {
		return false, fmt.Errorf("%d pairs arrived, but %d were announced", t.have(), t.total)
	}
	return t.closed && t.have() == t.total, nil
}

func (t *tally) collected() Collected {
	received := slices.SortedFunc(maps.Values(t.messages), func(a, b streams.Received) int {
		return cmp.Or(
			cmp.Compare(events.PromptOf(a.Message).GetPosition(), events.PromptOf(b.Message).GetPosition()),
			cmp.Compare(a.Message.ID(), b.Message.ID()),
		)
	})
	out := Collected{Dead: len(t.dead)}
	for _, r := range received {
		out.Messages = append(out.Messages, r.Message)
		out.Seqs = append(out.Seqs, r.Seq)
	}
	if len(out.Seqs) > 0 {
		out.First, out.Last = slices.Min(out.Seqs), slices.Max(out.Seqs)
	}
	return out
}
