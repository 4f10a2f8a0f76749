package offline

import (
	"fmt"

	"github.com/ldalign/ldalign/models/decode"
	"github.com/ldalign/ldalign/models/tokenizer"
	"github.com/ldalign/ldalign/ops/runs"
)

// Sampling says how responses are sampled.
type Sampling struct {
	// MaxTokens is the greatest number of tokens in a response; 0 is 256, or half of the model's context if that is less.
	MaxTokens         int
	Temperature       float64
	TopK              int
	TopP              float64
	MinP              float64
	RepetitionPenalty float64
	// Seed and a record's id determine the record's random numbers.
	Seed uint64
	// Stop has texts before which a response ends.
	Stop []string
	// IgnoreEOS continues after end tokens, up to MaxTokens.
	IgnoreEOS bool
}

// check checks the settings against a model with a context of most tokens, and fills in defaults.
func (s Sampling) check(most int) (Sampling, error) {
	if s.MaxTokens == 0 {
		s.MaxTokens = min(256, most/2)
	}
	if s.MaxTokens < 1 || s.MaxTokens >= most {
		return s, fmt.Errorf("%w: --max-tokens is %d, but prompt and response together may have %d tokens: give a smaller value",
			runs.ErrSettings, s.MaxTokens, most)
	}
	if _, err := tokenizer.NewStopMatcher(s.Stop...); err != nil {
		return s, fmt.Errorf("%w: --stop: %w", runs.ErrSettings, err)
	}
	if err := s.sampling().Validate(); err != nil {
		return s, fmt.Errorf("%w: %w", runs.ErrSettings, err)
	}
	return s, nil
}

func (s Sampling) sampling() decode.Sampling {
	return decode.Sampling{
		Temperature: s.Temperature, TopK: s.TopK, TopP: s.TopP, MinP: s.MinP, RepetitionPenalty: s.RepetitionPenalty,
	}
}

// request returns the part of a decoding request that is the same for all records.
func (s Sampling) request(t *tokenizer.Tokenizer) decode.Request {
	r := decode.Request{MaxNew: s.MaxTokens, Sampling: s.sampling()}
	if !s.IgnoreEOS {
		r.Stop = t.EOS()
	}
	return r
}
