package play

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Trainer processes give each other signs of life over a pipe, beside their computing: a long step is no silence. A
// process that has died closes its end, one that is stopped writes nothing.
const (
	// Patience is how long one may be silent, unless Player.Patience says otherwise.
	Patience = 30 * time.Second
	// signsWithin is the number of signs that are due in that time.
	signsWithin = 30
)

var (
	errSilent = errors.New("gave no sign of life")
	errGone   = errors.New("has ended")
)

// giveSigns writes signsWithin signs in the time of patience, until ctx ends or the other end is closed.
func giveSigns(ctx context.Context, w io.Writer, patience time.Duration) {
	tick := time.NewTicker(patience / signsWithin)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if _, err := w.Write([]byte{1}); err != nil {
			return
		}
	}
}

// awaitSilence returns errGone when the other end is closed, errSilent when patience is over since the last sign. A process that
// has given none yet is loading its libraries, and who meets it has a patience of its own. Counted are intervals that this
// process has lived through: one that was itself stopped blames nobody.
func awaitSilence(r io.Reader, patience time.Duration) error {
	signs, gone := make(chan struct{}, 1), make(chan struct{})
	go func() { // ends with the pipe
		defer close(gone)
		buffer := make([]byte, 256)
		for {
			if _, err := r.Read(buffer); err != nil {
				return
			}
			select {
			case signs <- struct{}{}:
			default:
			}
		}
	}()
	select {
	case <-gone:
		return errGone
	case <-signs:
	}
	tick := time.NewTicker(patience / signsWithin)
	defer tick.Stop()
	for silent := 0; silent < signsWithin; {
		select {
		case <-gone:
			return errGone
		case <-signs:
			silent = 0
		case <-tick.C:
			silent++
		}
	}
	return fmt.Errorf("%w for %v", errSilent, patience)
}
