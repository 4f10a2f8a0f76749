package decode

import (
	"context"
	"errors"
	"fmt"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
)

// Weights are a model with the digest that identifies its weights.
type Weights struct {
	Model  *models.Model
	Digest string // results have it
	// Release, if not nil, is called once: when other weights have replaced these and their last request has ended, or when
	// the scheduler closes. For a model that only the scheduler uses, set it to Model.Close.
	Release func(context.Context) error
}

// loaded are weights that a scheduler uses, with the cache of their rows.
type loaded struct {
	Weights
	opts  Options       // with the model's defaults
	cache *models.Cache // nil before the first step
	// users counts the requests and sources that have not ended. Scheduler.mu guards it.
	users int
}

func newLoaded(w Weights, opts Options) (*loaded, error) {
	if w.Model == nil {
		return nil, fmt.Errorf("%w: there is no model", ErrRequest)
	}
	opts, err := opts.withDefaults(w.Model.Config())
	return &loaded{Weights: w, opts: opts}, err
}

// check returns an error if these weights cannot decode a request.
func (w *loaded) check(r *Request) error { return r.check(w.Model.Config(), w.opts.Length) }

// freeCache frees the cache; the next step creates a new one.
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
	if errors.Is(err, tensor.ErrClosed) { // the engine has freed everything
		return nil
	}
	return err
}

// release frees the cache and calls Release.
func (w *loaded) release(ctx context.Context) error {
	err := w.freeCache(ctx)
	if w.Release != nil {
		err = errors.Join(err, w.Release(context.WithoutCancel(ctx)))
	}
	return err
}
