package loop

import (
	"context"
	"errors"
)

// saving commits states in the background, at most one at a time, while training goes on. Its owner, a phase, waits for it
// before it ends. It is used by one goroutine.
type saving struct {
	done chan struct{} // closed when the commit has ended; nil when there is none
	err  error
}

// begin starts a commit. The one before it must have been waited for.
func (s *saving) begin(commit func() error) {
	done := make(chan struct{})
	s.done, s.err = done, nil
	go func() {
		defer close(done)
		s.err = commit()
	}()
}

// wait waits for the commit under way, if there is one, and returns its error, once.
func (s *saving) wait() error {
	if s.done == nil {
		return nil
	}
	<-s.done
	s.done = nil
	return s.err
}

// failed is the error of a commit that has ended; nil while it runs.
func (s *saving) failed() error {
	select {
	case <-s.done: // blocks when there is none
		return s.wait()
	default:
		return nil
	}
}

// lasting is ctx without its cancellation, unless the cause is a lost lease: a commit that has begun is finished, unless
// another trainer may own the run by now. The caller must call release.
func lasting(ctx context.Context) (_ context.Context, release func()) {
	inner, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		if cause := context.Cause(ctx); errors.Is(cause, ErrLeaseLost) {
			cancel(cause)
		}
	})
	return inner, func() { stop(); cancel(nil) }
}
