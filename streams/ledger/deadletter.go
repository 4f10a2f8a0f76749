package ledger

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
)

// Letter is a dead letter with its number, by which it is shown and redriven.
type Letter struct {
	*events.DeadLetter
	Seq  uint64
	Time time.Time
	// Copies are the numbers under which the letter was stored again, after the stream had forgotten its id.
	Copies []uint64
}

// DeadLetters lists the dead letters of a run, oldest first, one of a message. Redriven ones are no longer among them;
// dropped ones are.
func DeadLetters(ctx context.Context, conn *streams.Conn, run string) ([]Letter, error) {
	return letters(ctx, conn, run, streams.AllIterations)
}

func letters(ctx context.Context, conn *streams.Conn, run string, iteration int) ([]Letter, error) {
	type name struct {
		id      string
		dropped bool
	}
	var letters []Letter
	at := map[name]int{}
	err := conn.Read(ctx, schemas.DeadLetters, run, iteration, 0, func(r streams.Received) error {
		d := r.Message.(*events.DeadLetter)
		this := name{d.ID(), d.GetDroppedBy() != ""}
		if first, copied := at[this]; copied {
			letters[first].Copies = append(letters[first].Copies, r.Seq)
			return nil
		}
		at[this] = len(letters)
		letters = append(letters, Letter{DeadLetter: d, Seq: r.Seq, Time: r.Time})
		return nil
	})
	return letters, err
}

// DeadLetter is the dead letter of a run that has a number; streams.ErrNotFound when there is none, or it was redriven. Of
// a copy it is the letter itself.
func DeadLetter(ctx context.Context, conn *streams.Conn, run string, seq uint64) (Letter, error) {
	letter, err := letterAt(ctx, conn, run, seq)
	if err != nil {
		return letter, err
	}
	all, err := letters(ctx, conn, run, int(letter.GetIteration()))
	if err != nil {
		return letter, fmt.Errorf("streams: dead letter %d: %w", seq, err)
	}
	for _, l := range all {
		if l.Seq == seq || slices.Contains(l.Copies, seq) {
			return l, nil
		}
	}
	return letter, fmt.Errorf("%w: dead letter %d", streams.ErrNotFound, seq) // removed meanwhile
}

// letterAt reads one letter, and not whether it has copies.
func letterAt(ctx context.Context, conn *streams.Conn, run string, seq uint64) (Letter, error) {
	e, err := conn.At(ctx, schemas.DeadLetters, run, seq)
	if err != nil {
		return Letter{}, fmt.Errorf("dead letter %d: %w", seq, err)
	}
	m, err := e.Open()
	if err != nil {
		return Letter{}, fmt.Errorf("streams: dead letter %d: %w", seq, err)
	}
	return Letter{DeadLetter: m.(*events.DeadLetter), Seq: seq, Time: e.Time}, nil
}

// Redrive puts the original of a dead letter back on its subject, where its stage finds it as a new message, and
// removes the letter with its copies: its pair is in flight again. Interrupted in between, it can be repeated; later than
// the stream remembers ids, the stage then does the work twice, and readers take the first result.
func Redrive(ctx context.Context, conn *streams.Conn, run string, seq uint64, copies ...uint64) error {
	letter, err := letterAt(ctx, conn, run, seq)
	if err != nil {
		return err
	}
	if by := letter.GetDroppedBy(); by != "" {
		return fmt.Errorf("streams: redrive %d: it was dropped by %s, and its original with it", seq, by)
	}
	kind, of, iteration, err := schemas.ParseSubject(letter.GetSubject())
	if err != nil {
		return fmt.Errorf("streams: redrive %d: %w", seq, err)
	}
	number := strconv.FormatUint(seq, 10)
	e := streams.NewEntry(kind, of, iteration, letter.GetPairId(), number, letter.GetOriginal())
	e.SetRedriven(number)
	// The copies first: what an interruption leaves is the letter of that number.
	if err := conn.Remove(ctx, schemas.DeadLetters, run, copies...); err != nil {
		return fmt.Errorf("streams: redrive %d: a copy of it: %w", seq, err)
	}
	if err := conn.Store(ctx, kind, e); err != nil {
		return fmt.Errorf("streams: redrive %d: %w", seq, err)
	}
	if err := conn.Remove(ctx, schemas.DeadLetters, run, seq); err != nil {
		return fmt.Errorf("streams: redrive %d: the message is back on %s, the letter not removed: %w",
			seq, letter.GetSubject(), err)
	}
	return nil
}

// Drop says that the pair of a dead letter is not wanted: the letter stays in the ledger with who said so, its original
// is removed, its copies too, and it cannot be redriven any more. Interrupted in between, it can be repeated. by names who
// drops it.
func Drop(ctx context.Context, conn *streams.Conn, run string, seq uint64, by string, copies ...uint64) error {
	letter, err := letterAt(ctx, conn, run, seq)
	if err != nil {
		return err
	}
	if letter.GetDroppedBy() != "" {
		return nil
	}
	letter.DroppedBy, letter.Original = streams.Text(by), nil
	e, err := streams.EntryOf(schemas.DeadLetters, letter.DeadLetter, "dropped")
	if err == nil {
		err = conn.Store(ctx, schemas.DeadLetters, e)
	}
	if err != nil {
		return fmt.Errorf("streams: drop %d: %w", seq, err)
	}
	if err := conn.Remove(ctx, schemas.DeadLetters, run, append(slices.Clone(copies), seq)...); err != nil {
		return fmt.Errorf("streams: drop %d: the letter is marked, its first copy not removed: %w", seq, err)
	}
	return nil
}

// Message decodes the message that a letter holds. The error says why it is none.
func (l Letter) Message() (events.Message, error) {
	return streams.Entry{Subject: l.GetSubject(), Data: l.GetOriginal()}.Open()
}
