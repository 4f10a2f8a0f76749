package decode

import (
	"fmt"
	"runtime/debug"
	"slices"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
)

// row is a request in the scheduler, from the queue to its end.
type row struct {
	request Request
	weights *loaded
	// cancelled returns the error of the context that the row depends on; nil while that has not ended.
	cancelled func() error
	onEnd     func(Result)
	onToken   func(Token) // nil for none
	serving   bool        // the request was submitted, so a caller waits for it

	slot   int // the row's slot in the cache
	number int // counts the rows that got a slot, to tell older ones from newer ones
	fed    int // how many tokens of the prompt are in the cache
	history
	result Result
}

// draw returns how to sample the row's next token.
func (r *row) draw() tensor.Draw {
	s := r.request.Sampling
	return tensor.Draw{
		Temperature: s.Temperature, TopK: s.TopK, TopP: s.TopP, MinP: s.MinP, RepetitionPenalty: s.repetition(), Seen: r.seen,
		Bias: s.additions(r.counts), U: models.Uniform(r.request.Seed, len(r.result.IDs)), Top: r.request.Top,
	}
}

// take appends a sampled token. It returns why the response ends with it, or "" if the response continues.
func (r *row) take(d tensor.Drawn) (reason string, err error) {
	if d.Token < 0 {
		return Failed, fmt.Errorf("%w: token %d of the response", ErrNotFinite, len(r.result.IDs))
	}
	t := Token{ID: d.Token, LogProb: d.LogProb}
	for _, top := range d.Top {
		t.Top = append(t.Top, TopToken{ID: top.Token, LogProb: top.Value})
	}
	r.result.IDs = append(r.result.IDs, t.ID)
	r.result.LogProbs = append(r.result.LogProbs, t.LogProb)
	if r.request.Top > 0 {
		r.result.Top = append(r.result.Top, t.Top)
	}
	r.history.add(t.ID)
	if r.onToken != nil {
		r.onToken(t)
	}
	halt := false
	if r.request.OnToken != nil {
		if err := guard("OnToken", func() { halt = r.request.OnToken(t) }); err != nil {
			return Failed, err
		}
	}
	switch {
	case halt || slices.Contains(r.request.Stop, t.ID):
		return Stop, nil
	case len(r.result.IDs) == r.request.MaxNew:
		return Length, nil
	}
	return "", nil
}

// end reports the end of the response.
func (r *row) end(reason string, err error) {
	r.result.Reason, r.result.Err, r.result.Digest = reason, err, r.weights.Digest
	r.onEnd(r.result)
}

// guard calls a function that the scheduler's user has given, and returns its panic as an error. The user cannot recover a panic
// on the scheduler's goroutine.
func guard(name string, f func()) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("decode: panic in %s: %v\n%s", name, cause, debug.Stack())
		}
	}()
	f()
	return nil
}
