package ledger

import (
	"context"
	"fmt"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
)

// Survey finds the part of a run's log that holds its iterations from first up to, and without, end. It reads the ids
// alone. streams.ErrIncomplete, with what is missing, when an iteration is open, has pairs in flight in front of this log, or has
// lost some from it.
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

// surveyed holds an iteration's ids in a log against the ledger.
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
		return fmt.Errorf("%w: iteration %d of run %s is not closed: its prompts are not all in the log, or it has not begun",
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
		"(`ldalign audit %s` tells which)", streams.ErrIncomplete, iteration, run, len(seen), total, kind, run)
}

// CountIn is the number of pairs of an iteration in a source.
func CountIn(ctx context.Context, conn *streams.Conn, s streams.Source, iteration uint32) (int, error) {
	seen, _, err := idsIn(ctx, conn, s, iteration)
	return len(seen), err
}

// idsIn are the ids of an iteration in a source, and where the first and the last of them stand. A Last of 0 reads to the
// end.
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

// Recall returns an iteration of a source, for the run that reads it, as Collect returns one of a run's own: unique by id and
// in the order of the prompts' positions, and bytes that are no message become dead letters, of that run. It waits for
// nothing. want is how many pairs there were when the source was chosen, negative when that is not known;
// streams.ErrIncomplete when the log has lost some since then. onProgress, nil for none, gets the number of pairs so far.
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
		if err != nil {
			d := streams.LetterOf("trainer", e, err)
			d.Run, d.Subject = run, schemas.Subject(s.Kind, run, iteration) // a source is only read
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
		return Collected{}, fmt.Errorf("%w: %s of run %s, iteration %d: %d of %d are left, its retention has removed the others (%s)",
			streams.ErrIncomplete, s.Kind, s.Run, iteration, have, want, reason)
	case begins > s.First:
		return Collected{}, fmt.Errorf("%w: %s of run %s: sequences %d to %d of stream %s are gone "+
			"(streams.max_age, or a retention rule)", streams.ErrIncomplete, s.Kind, s.Run, s.First, min(begins-1, s.Last),
			streams.StreamName(s.Kind, s.Run))
	}
	return Collected{}, fmt.Errorf("%w: %s of run %s, iteration %d: %d of %d are left between sequences %d and %d: "+
		"restore the stream", streams.ErrIncomplete, s.Kind, s.Run, iteration, have, want, s.First, s.Last)
}

// begins is the lowest position that a kind's log still holds.
func begins(ctx context.Context, conn *streams.Conn, kind schemas.Kind, run string) (uint64, error) {
	state, err := conn.State(ctx, kind, run)
	return state.First, err
}
