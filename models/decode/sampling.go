package decode

import (
	"fmt"
	"math"
	"slices"
)

// Sampling is how to draw a token from the model's logits. The steps are applied in the order of the fields: the penalties and
// the bias change logits, the temperature divides them, and the last three restrict which tokens may be drawn.
type Sampling struct {
	// RepetitionPenalty θ is that of CTRL (Keskar et al., 2019): the logit of a token in the prompt or the response becomes
	// logit/θ if it is positive, and logit·θ if it is negative. 0 and 1 mean no penalty.
	RepetitionPenalty float64
	// PresencePenalty and FrequencyPenalty are those of OpenAI's API: if token j occurs c[j] times in the response, its logit
	// becomes logit − c[j]·FrequencyPenalty − (1 if c[j] > 0)·PresencePenalty.
	PresencePenalty, FrequencyPenalty float64
	// Bias is added to the logits of tokens.
	Bias map[int64]float64

	Temperature float64 // divides the logits; 0 takes the most probable token
	TopK        int     // samples among the k most probable tokens; 0 takes all
	TopP        float64 // samples among the most probable tokens that together reach this probability; 1 takes all
	MinP        float64 // samples among tokens with this share of the greatest probability; 0 takes all
}

// Bounds that are far beyond useful values, so that no logit overflows.
const (
	maxPenalty = 100
	maxBias    = 1e4
)

// Validate returns an error if a setting is out of range.
func (s Sampling) Validate() error {
	within := func(x, most float64) bool { return math.Abs(x) <= most } // false for NaN
	switch {
	case !(s.Temperature >= 0) || s.Temperature > 1e4:
		return fmt.Errorf("temperature %g is not in [0, 10000]", s.Temperature)
	case s.TopK < 0:
		return fmt.Errorf("top-k %d is below 0", s.TopK)
	case !(s.TopP > 0 && s.TopP <= 1):
		return fmt.Errorf("top-p %g is not in (0, 1]", s.TopP)
	case !(s.MinP >= 0 && s.MinP <= 1):
		return fmt.Errorf("min-p %g is not in [0, 1]", s.MinP)
	case !(s.RepetitionPenalty >= 0) || math.IsInf(s.RepetitionPenalty, 1):
		return fmt.Errorf("repetition penalty %g is not above 0", s.RepetitionPenalty)
	case !within(s.PresencePenalty, maxPenalty):
		return fmt.Errorf("presence penalty %g is not in [-%d, %d]", s.PresencePenalty, maxPenalty, maxPenalty)
	case !within(s.FrequencyPenalty, maxPenalty):
		return fmt.Errorf("frequency penalty %g is not in [-%d, %d]", s.FrequencyPenalty, maxPenalty, maxPenalty)
	}
	var bad []int64
	for id, bias := range s.Bias {
		if !within(bias, maxBias) {
			bad = append(bad, id)
		}
	}
	if len(bad) > 0 {
		id := slices.Min(bad)
		return fmt.Errorf("the bias of token %d is %g, not in [-%g, %g]", id, s.Bias[id], maxBias, maxBias)
	}
	return nil
}
