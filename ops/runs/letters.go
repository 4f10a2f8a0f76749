package runs

import (
	"context"
	"fmt"
	"slices"

	"github.com/ldalign/ldalign/streams/ledger"
)

// LetterFilter selects some of a run's dead letters.
type LetterFilter struct {
	// Reason and Stage select letters with this reason and of this stage; empty selects any.
	Reason string
	Stage  string
	// Iteration is one iteration, or streams.AllIterations.
	Iteration int
}

// Narrow reports whether the filter can leave letters out.
func (f LetterFilter) Narrow() bool { return f.Reason != "" || f.Stage != "" || f.Iteration >= 0 }

// Matches reports whether the filter selects a letter.
func (f LetterFilter) Matches(l ledger.Letter) bool {
	return (f.Reason == "" || f.Reason == l.GetReason()) && (f.Stage == "" || f.Stage == l.GetStage()) &&
		(f.Iteration < 0 || uint32(f.Iteration) == l.GetIteration())
}

// Letters returns the dead letters of a run that a filter selects, oldest first. It returns ErrNoSuchRun if the run is not
// declared.
func Letters(ctx context.Context, s *Session, run string, f LetterFilter) ([]ledger.Letter, error) {
	if _, err := Spec(ctx, s, run); err != nil {
		return nil, err
	}
	letters, err := ledger.DeadLetters(ctx, s.Streams, run)
	return slices.DeleteFunc(letters, func(l ledger.Letter) bool { return !f.Matches(l) }), err
}

// LettersAt returns the dead letters of a run with the given numbers.
func LettersAt(ctx context.Context, s *Session, run string, numbers []uint64) ([]ledger.Letter, error) {
	letters := make([]ledger.Letter, len(numbers))
	for i, number := range numbers {
		var err error
		if letters[i], err = ledger.DeadLetter(ctx, s.Streams, run, number); err != nil {
			return nil, err
		}
	}
	return letters, nil
}

// Redrive publishes the original messages of letters again on their subjects, and calls done after each. An interrupted Redrive
// can be repeated.
func Redrive(ctx context.Context, s *Session, letters []ledger.Letter, done func(ledger.Letter) error) error {
	return each(letters, "redriven", done, func(l ledger.Letter) error {
		return ledger.Redrive(ctx, s.Streams, l.GetRun(), l.Seq, l.Copies...)
	})
}

// Drop marks letters as given up and deletes their original messages, and calls done after each. An interrupted Drop can be
// repeated.
func Drop(ctx context.Context, s *Session, letters []ledger.Letter, by string, done func(ledger.Letter) error) error {
	return each(letters, "dropped", done, func(l ledger.Letter) error {
		return ledger.Drop(ctx, s.Streams, l.GetRun(), l.Seq, by, l.Copies...)
	})
}

func each(letters []ledger.Letter, what string, done, do func(ledger.Letter) error) error {
	for i, l := range letters {
		if err := do(l); err != nil {
			return fmt.Errorf("%w\nldalign: %d of %d letters are %s; run the same command to continue", err, i, len(letters), what)
		}
		if err := done(l); err != nil {
			return err
		}
	}
	return nil
}
