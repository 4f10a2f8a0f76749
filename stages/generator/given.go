package generator

import (
	"fmt"
	"math"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// givenChecks is how many pairs with log-probs in the data a generator computes itself, to check that they fit the weights.
const givenChecks = 4

// hasGiven reports whether the data has the log-probs of a pair. They do not hold for a pair whose texts were cut.
func hasGiven(p *events.Pair) bool {
	return p.GetPrompt().ChosenLogp != nil && p.GetPrompt().RejectedLogp != nil && p.GetTruncated() == 0
}

// useGiven gives a pair the log-probs from the data. The first pairs are computed too. If they do not agree, the data's
// log-probs come from other weights or another template, or are summed in another way. The stage then ends with an error,
// because training on a wrong reference would go unnoticed.
func (s *Stage) useGiven(p *events.Pair) error {
	if !hasGiven(p) {
		return nil
	}
	chosen, rejected := p.GetPrompt().GetChosenLogp(), p.GetPrompt().GetRejectedLogp()
	if s.checked < givenChecks && p.GetChosenLogp() != 0 {
		s.checked++
		if s.wrong == nil && !(s.agrees(chosen, p.GetChosenLogp()) && s.agrees(rejected, p.GetRejectedLogp())) {
			s.wrong = fmt.Errorf("generator: the log-probabilities of prompt %q in the data are %.4f (chosen) and %.4f "+
				"(rejected), but checkpoint %.12s gives %.4f and %.4f: they are of other weights or of another template; leave the "+
				"columns out to have them computed", p.GetPrompt().GetPromptId(), chosen, rejected, p.ReferenceDigest(),
				p.GetChosenLogp(), p.GetRejectedLogp())
		}
	}
	if s.wrong != nil {
		return &schemas.Unavailable{Err: s.wrong, Permanent: true}
	}
	p.ChosenLogp, p.RejectedLogp = chosen, rejected
	return nil
}

// agrees reports whether two log-probs are equal up to the order of summation in float32, or up to the rounding of the weights.
func (s *Stage) agrees(given, computed float64) bool {
	share := 1e-5
	if s.spec.Compute.Weights == "bfloat16" {
		share = s.policy.Model.CanaryTolerance()
	}
	return math.Abs(given-computed) <= 1e-3+share*math.Abs(computed)
}
