package loop

import (
	"context"
	"errors"
)

// saving commits states in the background, at most one at a time, while training continues. The phase that owns it waits for
// the last commit before it ends. Only one goroutine may use it.
type saving struct {
	done chan struct{} // closed when the commit has ended; nil when there is none
	err  error
}

// begin starts a commit. wait must have returned for the previous one.
func (s *saving) begin(commit func() error) {
	done := make(chan struct{})
	s.done, s.err = done, nil
	go func() {
		defer close(done)
		s.err = commit()
	}()
}

// wait waits for the running commit, if there is one, and returns its error. It returns an error only once.
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

// lasting returns a context that ends with ctx only if the cause is a lost lease. So a commit that has begun is finished,
// unless another trainer owns the run. The caller must call release.
func lasting(ctx context.Context) (_ context.Context, release func()) {
	inner, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		if cause := context.Cause(ctx); errors.Is(cause, ErrLeaseLost) {
			cancel(cause)
		}
	})
	return inner, func() { stop(); cancel(nil) }
}
