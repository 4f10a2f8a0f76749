package decode

import (
	"errors"
	"fmt"

	"github.com/ldalign/ldalign/models/architecture"
)

var (
	// ErrRequest means a request or options that cannot be decoded.
	ErrRequest = errors.New("decode: invalid request")
	// ErrNotFinite means that the model gave scores that are NaN or infinite: its weights are damaged, or too large for
	// the type that it computes in.
	ErrNotFinite = errors.New("decode: the model's scores are not finite")
)

// Request is one prompt, and how to answer it. Its slices and its map must not change until the response has ended.
type Request struct {
	IDs    []int64
	MaxNew int    // tokens of the response at most, at least 1
	Seed   uint64 // of all its random numbers
	Sampling
	Stop []int64 // end tokens
	// Top is how many of the most probable tokens come with each sampled one.
	Top int
	// OnToken, if not nil, is told each token as it is sampled; true ends the response there. It is called on the
	// scheduler's goroutine, between two steps, so it must be quick; it may call Submit, but must not wait for a
	// result or use the engine. A panic ends the response with an error.
	OnToken func(Token) (stop bool)
}

// Token is a sampled token. Log-probabilities are log p(token | all before) by the model itself: without temperature,
// penalties or truncation.
type Token struct {
	ID      int64
	LogProb float32
	Top     []TopToken // Request.Top of them, the most probable one first
}

// TopToken is a token that could have come, with its log-probability.
type TopToken struct {
	ID      int64
	LogProb float32
}

// Reasons why a response ended.
const (
	Stop      = "stop"      // an end token was sampled, or OnToken said so
	Length    = "length"    // MaxNew tokens were sampled
	Cancelled = "cancelled" // the request's context ended
	Failed    = "error"     // Result.Err says what went wrong
)

// Result is one response, as far as it came.
type Result struct {
	// IDs are the sampled tokens, the end token included, so that a model can be trained on where to stop.
	IDs      []int64
	LogProbs []float32    // of each, as in Token
	Top      [][]TopToken // of each; nil unless the request asked for them
	Reason   string       // Stop, Length, Cancelled or Failed
	Digest   string       // of the weights that all tokens are from
	Err      error        // nil unless Reason is Cancelled or Failed
}

// check tells why a request cannot be decoded by a model in a cache of the given length.
func (r *Request) check(cfg architecture.Config, length int) error {
	switch n := len(r.IDs) + r.MaxNew; {
	case r.MaxNew < 1:
		return fmt.Errorf("%w: MaxNew is %d, want at least 1", ErrRequest, r.MaxNew)
	case len(r.IDs) == 0:
		return fmt.Errorf("%w: the prompt has no tokens", ErrRequest)
	case n > length:
		return fmt.Errorf("%w: %d tokens and up to %d new ones, together at most %d fit", ErrRequest, len(r.IDs), r.MaxNew, length)
	case r.Top < 0 || r.Top > cfg.Vocab:
		return fmt.Errorf("%w: %d most probable tokens, want 0 to %d", ErrRequest, r.Top, cfg.Vocab)
	}
	for _, id := range r.IDs {
		if id < 0 || id >= int64(cfg.Vocab) {
			return fmt.Errorf("%w: token %d is not in the vocabulary of %d", ErrRequest, id, cfg.Vocab)
		}
	}
	for id := range r.Bias {
		if id < 0 || id >= int64(cfg.Vocab) {
			return fmt.Errorf("%w: the bias of token %d, which is not in the vocabulary of %d", ErrRequest, id, cfg.Vocab)
		}
	}
	if err := r.Sampling.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrRequest, err)
	}
	return nil
}
