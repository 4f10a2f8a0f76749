package play

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Trainer processes send each other signs of life over a pipe while they compute, so a long step does not count as silence. When
// a process dies, its end of the pipe is closed; a stopped process writes nothing.
const (
	// Patience is how long a process may be silent, unless Player.Patience is set.
	Patience = 30 * time.Second
	// signsWithin is the number of signs that a process sends in that time.
	signsWithin = 30
)

var (
	errSilent = errors.New("gave no sign of life")
	errGone   = errors.New("has ended")
)

// giveSigns writes signsWithin signs per patience, until ctx ends or the other end is closed.
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

// awaitSilence returns errGone when the other end is closed, and errSilent when the last sign is older than patience. It waits
// for the first sign without limit, since the other process may be loading its libraries; joining the group has its own limit.
// Only intervals during which this process was running count, so a suspended process does not report its peer as dead.
func awaitSilence(r io.Reader, patience time.Duration) error {
	signs, gone := make(chan struct{}, 1), make(chan struct{})
	go func() { // ends when the pipe is closed
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
