package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Trainer processes give each other signs of life over a pipe, beside their computing: a long step is no silence. A
// process that has died closes its end, one that is stopped or wedged writes nothing.
const (
	signEvery    = time.Second
	signPatience = 30 // intervals
)

var (
	errSilent = fmt.Errorf("gave no sign of life for %v", signPatience*signEvery)
	errGone   = errors.New("has ended")
)

// giveSigns writes a sign per interval until ctx ends or the other end is closed.
func giveSigns(ctx context.Context, w io.Writer, every time.Duration) {
	tick := time.NewTicker(every)
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

// awaitSilence returns errGone when the other end is closed, errSilent after as many intervals without a sign as patience
// has. It counts intervals that this process has lived through: one that was itself stopped blames nobody.
func awaitSilence(r io.Reader, every time.Duration) error {
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
	tick := time.NewTicker(every)
	defer tick.Stop()
	for silent := 0; silent < signPatience; {
		select {
		case <-gone:
			return errGone
		case <-signs:
			silent = 0
		case <-tick.C:
			silent++
		}
	}
	return errSilent
}
