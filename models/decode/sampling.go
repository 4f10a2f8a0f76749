package decode

import (
	"fmt"
	"math"
	"slices"
)

// Sampling says how a token is drawn from the model's logits. The steps follow each other in the order of the fields: the
// penalties and the bias change logits, the temperature divides them, and the last three leave tokens out.
type Sampling struct {
	// RepetitionPenalty θ is that of CTRL (Keskar et al., 2019): the logit of a token that the prompt or the response has
	// becomes logit/θ where it is positive, and logit·θ where it is negative. 0 and 1 are none.
	RepetitionPenalty float64
	// PresencePenalty and FrequencyPenalty are those of OpenAI's API: with c[j] the number of times that the response has
	// token j, its logit becomes logit − c[j]·FrequencyPenalty − (1 if c[j] > 0)·PresencePenalty.
	PresencePenalty, FrequencyPenalty float64
	// Bias is added to the logits of tokens.
	Bias map[int64]float64

	Temperature float64 // divides the logits; 0 takes the most probable token
	TopK        int     // samples among the k most probable tokens; 0 takes all
	TopP        float64 // samples among the most probable tokens that together reach this probability; 1 takes all
	MinP        float64 // samples among tokens with this share of the greatest probability; 0 takes all
}

// Bounds that are far beyond what is useful, so that no logit overflows.
const (
	maxPenalty = 100
	maxBias    = 1e4
)

// Validate tells what is wrong with the settings.
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
