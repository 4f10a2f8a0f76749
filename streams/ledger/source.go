package ledger

import (
	"context"
	"errors"
	"fmt"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
)

// Survey finds the part of a run's log that holds the iterations from first up to, but not including, end. It reads only the ids.
// It returns streams.ErrIncomplete, saying what is missing, when an iteration is open, has pairs that have not reached this log,
// or has lost pairs from it.
func Survey(ctx context.Context, conn *streams.Conn, kind schemas.Kind, run string, first, end uint32) (streams.Source, error) {
	out := streams.Source{Run: run, Kind: kind}
	if !kind.CarriesPair() {
		return out, fmt.Errorf("streams: survey: %s has no pairs", kind)
	}
	for i := first; i < end; i++ {
		seen, span, err := idsIn(ctx, conn, streams.Source{Run: run, Kind: kind}, i)
		if err != nil {
			return out, err
		}
		if err := surveyed(ctx, conn, kind, run, i, seen); err != nil {
			return out, err
		}
		if len(seen) == 0 {
			return out, fmt.Errorf("%w: iteration %d of run %s has no %s: all its pairs are dead-lettered",
				streams.ErrIncomplete, i, run, kind)
		}
		if out.First == 0 || span.First < out.First {
			out.First = span.First
		}
		out.Last = max(out.Last, span.Last)
	}
	return out, nil
}

// surveyed checks that each pair of an iteration is in the log (seen) or has a dead letter.
func surveyed(
	ctx context.Context, conn *streams.Conn, kind schemas.Kind, run string, iteration uint32, seen map[string]bool,
) error {
	total, closed := 0, false
	err := conn.Read(ctx, schemas.Control, run, int(iteration), 0, func(r streams.Received) error {
		if m, ok := r.Message.(*events.Control); ok && m.GetKind() == events.ControlClosed {
			total, closed = int(m.GetTotal()), true
		}
		return nil
	})
	if err != nil {
		return err
	}
	if !closed {
		return fmt.Errorf("%w: iteration %d of run %s is not closed: it has not begun, or not all its prompts are in the log",
			streams.ErrIncomplete, iteration, run)
	}
	letters, err := letters(ctx, conn, run, int(iteration))
	if err != nil {
		return err
	}
	dead := map[string]bool{}
	for _, l := range letters {
		if id := l.GetPairId(); id != "" && !seen[id] {
			dead[id] = true
		}
	}
	missing := total - len(seen) - len(dead)
	if missing <= 0 {
		return nil
	}
	reason, expired, err := expiry(ctx, conn, run, iteration)
	if err != nil {
		return err
	}
	if expired {
		return fmt.Errorf("%w: iteration %d of run %s lacks %d of %d %s: its retention has removed them (%s)", streams.ErrIncomplete,
			iteration, run, missing, total, kind, reason)
	}
	begins, err := begins(ctx, conn, kind, run)
	if err != nil {
		return err
	}
	if begins > 1 {
		return fmt.Errorf("%w: iteration %d of run %s lacks %d of %d %s: sequences 1 to %d of stream %s are gone "+
			"(streams.max_age, or a retention rule)", streams.ErrIncomplete, iteration, run, missing, total, kind, begins-1,
			streams.StreamName(kind, run))
	}
	return fmt.Errorf("%w: iteration %d of run %s has %d of %d %s: the others are in flight, or were deleted "+
		"(`ldalign audit %s` says which)", streams.ErrIncomplete, iteration, run, len(seen), total, kind, run)
}

// CountIn returns the number of pairs of an iteration in a source.
func CountIn(ctx context.Context, conn *streams.Conn, s streams.Source, iteration uint32) (int, error) {
	seen, _, err := idsIn(ctx, conn, s, iteration)
	return len(seen), err
}

// idsIn returns the ids of an iteration in a source, and the positions of the first and the last of them. When s.Last is 0, it
// reads to the end of the log.
func idsIn(ctx context.Context, conn *streams.Conn, s streams.Source, iteration uint32) (map[string]bool, streams.Source, error) {
	seen, span := map[string]bool{}, streams.Source{Run: s.Run, Kind: s.Kind}
	selected := streams.Part{
		Kind: s.Kind, Run: s.Run, Iteration: int(iteration), First: s.First, Last: s.Last, Headers: true,
	}
	err := conn.Scan(ctx, selected, func(e streams.Entry) error {
		id := e.ID()
		if id == "" {
			return nil
		}
		if span.First == 0 {
			span.First = e.Seq
		}
		if !seen[id] {
			span.Last = e.Seq
		}
		seen[id] = true
		return nil
	})
	if err != nil {
		return nil, span, fmt.Errorf("streams: %s of run %s, iteration %d: %w", s.Kind, s.Run, iteration, err)
	}
	return seen, span, nil
}

// Recall returns an iteration of a source for the run that reads it. As in Collect, the messages are unique by id and ordered by
// their prompts' positions, and messages that cannot be decoded become dead letters of that run. Recall does not wait for more
// messages. want is the number of pairs when the source was chosen; negative when unknown. Recall returns streams.ErrIncomplete
// when the log has lost pairs since then. onProgress, if not nil, is called with the number of pairs so far.
func Recall(
	ctx context.Context, conn *streams.Conn, s streams.Source, run string, iteration uint32, want int, onProgress func(have int),
) (Collected, error) {
	begins, err := begins(ctx, conn, s.Kind, s.Run)
	if err != nil {
		return Collected{}, err
	}
	t := tally{messages: map[string]streams.Received{}, dead: map[string]bool{}}
	selected := streams.Part{Kind: s.Kind, Run: s.Run, Iteration: int(iteration), First: s.First, Last: s.Last}
	err = conn.Scan(ctx, selected, func(e streams.Entry) error {
		m, err := e.Open()
		if errors.Is(err, streams.ErrNewer) {
			return err
		}
		if err != nil {
			d := streams.LetterOf("trainer", e, err)
			d.Run, d.Subject = run, schemas.Subject(s.Kind, run, iteration) // nothing is written to a source
			t.addLetter(d)
			return conn.Bury(ctx, d)
		}
		t.add(e.Received(m))
		if onProgress != nil {
			onProgress(t.have())
		}
		return nil
	})
	if err != nil {
		return Collected{}, fmt.Errorf("streams: recall %s of run %s, iteration %d: %w", s.Kind, s.Run, iteration, err)
	}
	have := t.have()
	if have == want || want < 0 && begins <= s.First {
		return t.collected(), nil
	}
	reason, expired, err := expiry(ctx, conn, s.Run, iteration)
	switch {
	case err != nil:
		return Collected{}, err
	case expired:
		return Collected{}, fmt.Errorf("%w: %s of run %s, iteration %d: %d of %d are left: its retention has removed the others (%s)",
			streams.ErrIncomplete, s.Kind, s.Run, iteration, have, want, reason)
	case begins > s.First:
		return Collected{}, fmt.Errorf("%w: %s of run %s: sequences %d to %d of stream %s are gone "+
			"(streams.max_age, or a retention rule)", streams.ErrIncomplete, s.Kind, s.Run, s.First, min(begins-1, s.Last),
			streams.StreamName(s.Kind, s.Run))
	}
	return Collected{}, fmt.Errorf("%w: %s of run %s, iteration %d: %d of %d are left between sequences %d and %d: "+
		"restore the stream", streams.ErrIncomplete, s.Kind, s.Run, iteration, have, want, s.First, s.Last)
}

// begins returns the lowest position that a kind's log still holds.
func begins(ctx context.Context, conn *streams.Conn, kind schemas.Kind, run string) (uint64, error) {
	state, err := conn.State(ctx, kind, run)
	return state.First, err
}
