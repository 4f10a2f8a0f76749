package decode

import (
	"context"
	"errors"
	"fmt"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
)

// Weights are a model and the name of what is in it.
type Weights struct {
	Model  *models.Model
	Digest string // results name it
	// Release, if not nil, is called once, when other weights have replaced these and their last request has ended, or when
	// the scheduler closes: Model.Close, for one that the scheduler alone uses.
	Release func(context.Context) error
}

// loaded are weights that a scheduler holds, with the keys and values of their rows.
type loaded struct {
	Weights
	opts  Options       // with the model's defaults
	cache *models.Cache // nil before the first step
	// users counts the requests and sources that have not ended; Scheduler.mu guards it.
	users int
}

func newLoaded(w Weights, opts Options) (*loaded, error) {
	if w.Model == nil {
		return nil, fmt.Errorf("%w: there is no model", ErrRequest)
	}
	opts, err := opts.withDefaults(w.Model.Config())
	return &loaded{Weights: w, opts: opts}, err
}

// check tells why a request cannot be decoded with these weights.
func (w *loaded) check(r *Request) error { return r.check(w.Model.Config(), w.opts.Length) }

// freeCache frees the keys and values; the next step begins with new ones.
func (w *loaded) freeCache(ctx context.Context) error {
	if w.cache == nil {
		return nil
	}
	cache := w.cache
	w.cache = nil
	err := w.Model.Engine().DoFirst(context.WithoutCancel(ctx), func(*tensor.Scope) error {
		cache.Free()
		return nil
	})
	if errors.Is(err, tensor.ErrClosed) { // it freed everything
		return nil
	}
	return err
}

// release gives up what the weights hold.
func (w *loaded) release(ctx context.Context) error {
	err := w.freeCache(ctx)
	if w.Release != nil {
		err = errors.Join(err, w.Release(context.WithoutCancel(ctx)))
	}
	return err
}
