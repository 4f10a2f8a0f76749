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

// Letter is a dead letter with its number.
type Letter struct {
	*events.DeadLetter
	// Seq is the number of the letter: its position in the log.
	Seq  uint64
	Time time.Time
	// Copies are the numbers under which the letter was stored again after the server had forgotten its id.
	Copies []uint64
}

// DeadLetters lists the dead letters of a run, oldest first, each once. The list includes dropped letters, but not redriven ones.
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

// DeadLetter returns the dead letter of a run with the given number. For the number of a copy it returns the original letter. It
// returns streams.ErrNotFound when there is none or it was redriven.
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

// letterAt reads one letter, without looking for copies.
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

// Redrive stores the original of a dead letter on its subject again, where the stage receives it as a new message, and removes
// the letter with its copies. The pair is then in flight again. After an interruption Redrive can be repeated. If the server has
// forgotten the id by then, the stage does the work twice, and readers take the first result.
func Redrive(ctx context.Context, conn *streams.Conn, run string, seq uint64, copies ...uint64) error {
	letter, err := letterAt(ctx, conn, run, seq)
	if err != nil {
		return err
	}
	if by := letter.GetDroppedBy(); by != "" {
		return fmt.Errorf("streams: redrive %d: it was dropped by %s, and its original was removed", seq, by)
	}
	kind, of, iteration, err := schemas.ParseSubject(letter.GetSubject())
	if err != nil {
		return fmt.Errorf("streams: redrive %d: %w", seq, err)
	}
	number := strconv.FormatUint(seq, 10)
	e := streams.NewEntry(kind, of, iteration, letter.GetPairId(), number, letter.GetOriginal())
	e.SetRedriven(number)
	// Remove the copies first, so that after an interruption the letter still has its number.
	if err := conn.Remove(ctx, schemas.DeadLetters, run, copies...); err != nil {
		return fmt.Errorf("streams: redrive %d: remove a copy of the letter: %w", seq, err)
	}
	if err := conn.Store(ctx, kind, e); err != nil {
		return fmt.Errorf("streams: redrive %d: %w", seq, err)
	}
	if err := conn.Remove(ctx, schemas.DeadLetters, run, seq); err != nil {
		return fmt.Errorf("streams: redrive %d: the message is back on %s, but the letter is not removed: %w",
			seq, letter.GetSubject(), err)
	}
	return nil
}

// Drop marks the pair of a dead letter as unwanted. The letter stays in the log with by, which names who dropped it. Its original
// and its copies are removed, so it can no longer be redriven. After an interruption Drop can be repeated.
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
		return fmt.Errorf("streams: drop %d: the letter is marked as dropped, but its first copy is not removed: %w", seq, err)
	}
	return nil
}

// Message decodes the original message that a letter holds. The error says why it cannot be decoded.
func (l Letter) Message() (events.Message, error) {
	return streams.Entry{Subject: l.GetSubject(), Data: l.GetOriginal()}.Open()
}
