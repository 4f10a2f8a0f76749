package trainer

import (
	"math"

	"github.com/ldalign/ldalign/models/tensor"
)

// PairLoss is equation (LD): the mean over a batch of divisor pairs of
//
//	-w * log sigmoid(beta * ((logp(y|x) - logp(y'|x)) - (ref(y|x) - ref(y'|x))))
//
// chosen, rejected, refChosen, refRejected and weights are [B] float32; the log-probs are sums over response tokens, and
// gradients flow through chosen and rejected only. divisor is the number of pairs in the optimizer step of which these B
// are a part, not the sum of the weights: dividing by that would undo the normaliser inside each batch. The result is a
// scalar. With weights of 1 this is SPIN's loss and DPO's. SPIN, DPO and LD-Align all call this one function.
func PairLoss(chosen, rejected, refChosen, refRejected, weights *tensor.Tensor, beta float64, divisor int) *tensor.Tensor {
	margin := chosen.Sub(rejected).Sub(refChosen.Sub(refRejected))
	return margin.MulScalar(beta).LogSigmoid().Mul(weights).Sum().MulScalar(-1 / float64(divisor))
}

// SequenceLoss is the SFT loss: minus the sum of log-probs, [B], over the number of response tokens in the whole optimizer
// step. The result is a scalar: the mean negative log-likelihood of a token, weighted by this part's share.
func SequenceLoss(logp *tensor.Tensor, tokens int) *tensor.Tensor {
	return logp.Sum().MulScalar(-1 / float64(tokens))
}

// PairStats are the numbers of a few pairs that curves are drawn from, computed from log-probs outside autograd. Sums,
// so that parts of a batch add up.
type PairStats struct {
	Pairs int
	// Loss is the sum of w * -log sigmoid(beta * margin).
	Loss float64
	// Margin is the sum of beta * ((logp(y) - ref(y)) - (logp(y') - ref(y'))).
	Margin float64
	// ChosenChange and RejectedChange are sums of logp - ref. Minus the latter, per pair, estimates KL(p_t || p): y' was
	// sampled from p_t.
	ChosenChange, RejectedChange float64
	// Differing counts pairs whose responses differ; Correct those among them whose chosen reward is strictly larger.
	Differing, Correct int
}

// Add adds one pair. same says that both responses are the same tokens.
func (p *PairStats) Add(chosen, rejected, refChosen, refRejected, weight, beta float64, same bool) {
	up, down := chosen-refChosen, rejected-refRejected
	margin := beta * (up - down)
	p.Pairs++
	p.Loss += weight * softplus(-margin)
	p.Margin += margin
	p.ChosenChange += up
	p.RejectedChange += down
	if same {
		return
	}
	p.Differing++
	if up > down {
		p.Correct++
	}
}

// softplus is log(1+exp(x)) = -log sigmoid(-x), stable for any x.
func softplus(x float64) float64 { return math.Max(x, 0) + math.Log1p(math.Exp(-math.Abs(x))) }
