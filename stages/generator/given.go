package generator

import (
	"fmt"
	"math"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// givenChecks is how many pairs with given log-probs a generator computes itself, to see that they are of these weights.
const givenChecks = 4

// hasGiven tells whether the data gives the log-probs of a pair as it is: a response that was cut has others.
func hasGiven(p *events.Pair) bool {
	return p.GetPrompt().ChosenLogp != nil && p.GetPrompt().RejectedLogp != nil && p.GetTruncated() == 0
}

// useGiven gives a pair the log-probs that the data has for it. The first pairs were computed too: when they do not agree, the
// data's log-probs are of other weights, of another template or summed in another way, and the stage ends
// with that, for a wrong reference would spoil the loss without a sign.
func (s *Stage) useGiven(p *events.Pair) error {
	if !hasGiven(p) {
		return nil
	}
	chosen, rejected := p.GetPrompt().GetChosenLogp(), p.GetPrompt().GetRejectedLogp()
	if s.checked < givenChecks && p.GetChosenLogp() != 0 {
		s.checked++
		if s.wrong == nil && !(agrees(chosen, p.GetChosenLogp()) && agrees(rejected, p.GetRejectedLogp())) {
			s.wrong = fmt.Errorf("generator: the data says that the log-probabilities of prompt %q are %.4f (chosen) and %.4f "+
				"(rejected); checkpoint %.12s gives %.4f and %.4f: they are of other weights or of another template; leave the "+
				"columns out, and they are computed", p.GetPrompt().GetPromptId(), chosen, rejected, p.ReferenceDigest(),
				p.GetChosenLogp(), p.GetRejectedLogp())
		}
	}
	if s.wrong != nil {
		return &schemas.Unavailable{Err: s.wrong, Permanent: true}
	}
	p.ChosenLogp, p.RejectedLogp = chosen, rejected
	return nil
}

// agrees allows for another order of summation in float32.
func agrees(given, computed float64) bool {
	return math.Abs(given-computed) <= 1e-3+1e-5*math.Abs(computed)
}
