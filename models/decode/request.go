package decode

import (
	"errors"
	"fmt"

	"github.com/ldalign/ldalign/models/architecture"
)

var (
	// ErrRequest means that a request or options are invalid.
	ErrRequest = errors.New("decode: invalid request")
	// ErrNotFinite means that the model's scores are NaN or infinite: its weights are damaged, or too large for the type that
	// it computes in.
	ErrNotFinite = errors.New("decode: the model's scores are not finite")
)

// Request is a prompt and the settings of its response. Its slices and its map must not change until the response has ended.
type Request struct {
	IDs    []int64
	MaxNew int    // tokens of the response at most, at least 1
	Seed   uint64 // of all its random numbers
	Sampling
	Stop []int64 // end tokens
	// Top is how many of the most probable tokens to report with each sampled one.
	Top int
	// OnToken, if not nil, is called with each token as it is sampled; if it returns true, the response ends there. It runs on
	// the scheduler's goroutine, between two steps, so it must be quick. It may call Submit, but must not wait for a result
	// or use the engine. A panic ends the response with an error.
	OnToken func(Token) (stop bool)
}

// Token is a sampled token. Log-probabilities are log p(token | all tokens before it) of the model itself, before temperature,
// penalties and truncation.
type Token struct {
	ID      int64
	LogProb float32
	Top     []TopToken // the Request.Top most probable tokens, the most probable first
}

// TopToken is one of the most probable tokens at a position, with its log-probability.
type TopToken struct {
	ID      int64
	LogProb float32
}

// Reasons why a response ended.
const (
	Stop      = "stop"      // an end token was sampled, or OnToken returned true
	Length    = "length"    // MaxNew tokens were sampled
	Cancelled = "cancelled" // the request's context ended
	Failed    = "error"     // Result.Err says what went wrong
)

// Result is a response. If it was cancelled or failed, it has the tokens that were sampled before.
type Result struct {
	// IDs are the sampled tokens, the end token included, so that a model can be trained on where to stop.
	IDs      []int64
	LogProbs []float32    // of each token, as in Token
	Top      [][]TopToken // of each token; nil unless the request asked for them
	Reason   string       // Stop, Length, Cancelled or Failed
	Digest   string       // of the weights that sampled all tokens
	Err      error        // nil unless Reason is Cancelled or Failed
}

// check returns an error if a model with a cache of the given length cannot decode the request.
func (r *Request) check(cfg architecture.Config, length int) error {
	switch n := len(r.IDs) + r.MaxNew; {
	case r.MaxNew < 1:
		return fmt.Errorf("%w: MaxNew is %d, want at least 1", ErrRequest, r.MaxNew)
	case len(r.IDs) == 0:
		return fmt.Errorf("%w: the prompt has no tokens", ErrRequest)
	case n > length:
		return fmt.Errorf("%w: prompt of %d tokens, response of up to %d: together at most %d fit", ErrRequest, len(r.IDs), r.MaxNew,
			length)
	case r.Top < 0 || r.Top > cfg.Vocab:
		return fmt.Errorf("%w: Top is %d, want 0 to %d", ErrRequest, r.Top, cfg.Vocab)
	}
	for _, id := range r.IDs {
		if id < 0 || id >= int64(cfg.Vocab) {
			return fmt.Errorf("%w: token %d is not in the vocabulary of %d", ErrRequest, id, cfg.Vocab)
		}
	}
	for id := range r.Bias {
		if id < 0 || id >= int64(cfg.Vocab) {
			return fmt.Errorf("%w: the bias is for token %d, which is not in the vocabulary of %d", ErrRequest, id, cfg.Vocab)
		}
	}
	if err := r.Sampling.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrRequest, err)
	}
	return nil
}
