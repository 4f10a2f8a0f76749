package activity

import (
	"context"
	"errors"
)

// ErrInterrupted says that training stopped between two steps because its context ended. The state is committed, and the
// next start resumes from it.
var ErrInterrupted = errors.New("trainer: interrupted; the state is saved and the next start resumes from it")

// Interrupted reports whether err says that a run ended because it was told to. It is false if something failed meanwhile, such
// as saving a state.
func Interrupted(err error) bool {
	return errors.Is(err, ErrInterrupted) || errors.Is(err, context.Canceled)
}
