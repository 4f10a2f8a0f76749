package trainer

import (
	"math"

	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/schemas"
)

// PairObjective is what LD-Align, SPIN and DPO minimise: a loss of each pair, times the pair's weight. They differ in the
// weights and in where pairs come from; with weights of 1 the three are one function. With
//
//	Δ = (log p(y|x) - log p(y'|x)) - (log ref(y|x) - log ref(y'|x))
//
// and ε the label smoothing, the loss of a pair is
//
//	(LD)     sigmoid         -log σ(βΔ)
//	(cDPO)   sigmoid, ε > 0  -(1-ε) log σ(βΔ) - ε log σ(-βΔ)
//	(robust) robust          (-(1-ε) log σ(βΔ) + ε log σ(-βΔ)) / (1-2ε)
//	(hinge)  hinge           max(0, 1-βΔ)
//	(IPO)    ipo             (Δ̄ - 1/(2β))²
//
// where Δ̄ is Δ with each log-ratio log p - log ref divided by the number of its response's tokens: the form that the
// authors of IPO used and that TRL computes (equation 17 of arXiv 2310.12036, with β for τ).
type PairObjective struct {
	// Kind is sigmoid, hinge, ipo or robust.
	Kind string
	// Beta is β, greater than 0.
	Beta float64
	// Smoothing is ε, in [0, 0.5): the share of pairs that are taken to be labelled the wrong way round.
	Smoothing float64
}

// pairObjective is the objective of a spec.
func pairObjective(o schemas.ObjectiveSpec) PairObjective {
	return PairObjective{Kind: o.Loss, Beta: o.Beta, Smoothing: o.LabelSmoothing}
}

// PairBatch holds the numbers of B pairs, each [B] of one float type. The log-probs are sums over response tokens, in nats.
type PairBatch struct {
	// Chosen and Rejected are log p(y|x) and log p(y'|x): gradients flow through them only.
	Chosen, Rejected *tensor.Tensor
	// RefChosen and RefRejected are the same under the reference.
	RefChosen, RefRejected *tensor.Tensor
	Weights                *tensor.Tensor
	// ChosenTokens and RejectedTokens count the tokens of y and y'. Only ipo reads them.
	ChosenTokens, RejectedTokens *tensor.Tensor
}

// Loss is the sum of weight times loss over the pairs of b, divided by divisor: the number of pairs in the optimizer step
// of which these B are a part. It is not the sum of the weights, for dividing by that would undo the normaliser inside each
// batch. The result is a scalar.
func (o PairObjective) Loss(b PairBatch, divisor int) *tensor.Tensor {
	return o.negated(b).Mul(b.Weights).Sum().MulScalar(-1 / float64(divisor))
}

// negated is minus the loss of each pair, [B].
func (o PairObjective) negated(b PairBatch) *tensor.Tensor {
	if o.Kind == "ipo" {
		up := b.Chosen.Sub(b.RefChosen).Div(b.ChosenTokens)
		down := b.Rejected.Sub(b.RefRejected).Div(b.RejectedTokens)
		off := up.Sub(down).SubScalar(1 / (2 * o.Beta))
		return off.Mul(off).Neg()
	}
	scaled := b.Chosen.Sub(b.Rejected).Sub(b.RefChosen.Sub(b.RefRejected)).MulScalar(o.Beta)
	if o.Kind == "hinge" {
		return scaled.Neg().AddScalar(1).Relu().Neg()
	}
	right := scaled.LogSigmoid()
	if o.Smoothing == 0 {
		return right
	}
	right, wrong := right.MulScalar(1-o.Smoothing), scaled.Neg().LogSigmoid().MulScalar(o.Smoothing)
	if o.Kind == "robust" {
		return right.Sub(wrong).DivScalar(1 - 2*o.Smoothing)
	}
	return right.Add(wrong)
}

// SequenceLoss is the loss of SFT and Continual SFT: minus the sum of log-probs, [B], over the number of response tokens in
// the whole optimizer step. The result is a scalar: the mean negative log-likelihood of a token, weighted by this part's
// share.
func SequenceLoss(logp *tensor.Tensor, tokens int) *tensor.Tensor {
	return logp.Sum().MulScalar(-1 / float64(tokens))
}

// PairValues are the numbers of one pair outside autograd; see PairBatch for their meaning.
type PairValues struct {
	Chosen, Rejected, RefChosen, RefRejected, Weight float64
	ChosenTokens, RejectedTokens                     int
	// Same says that both responses are the same tokens.
	Same bool
	// Distance is s, where the pair has one.
	Distance float64
	// Sampled says that y' was sampled from the reference itself.
	Sampled bool
}

// Value is the loss of a pair, without its weight.
func (o PairObjective) Value(p PairValues) float64 {
	up, down := p.Chosen-p.RefChosen, p.Rejected-p.RefRejected
	scaled := o.Beta * (up - down)
	switch o.Kind {
	case "ipo":
		off := up/float64(p.ChosenTokens) - down/float64(p.RejectedTokens) - 1/(2*o.Beta)
		return off * off
	case "hinge":
		return math.Max(0, 1-scaled)
	}
	right, wrong := softplus(-scaled), softplus(scaled)
	switch {
	case o.Smoothing == 0:
		return right
	case o.Kind == "robust":
		return ((1-o.Smoothing)*right - o.Smoothing*wrong) / (1 - 2*o.Smoothing)
	default:
		return (1-o.Smoothing)*right + o.Smoothing*wrong
	}
}

// PairStats are the numbers of a few pairs that curves are drawn from. Sums, so that parts of a batch add up.
type PairStats struct {
	Pairs int
	// Loss is the sum of weight times loss.
	Loss float64
	// Margin is the sum of βΔ.
	Margin float64
	// Chosen and Rejected are sums of log p; ChosenChange and RejectedChange of log p - log ref.
	Chosen, Rejected, ChosenChange, RejectedChange float64
	// Differing counts pairs whose responses differ; Correct those among them whose chosen reward is strictly larger.
	Differing, Correct int
	// Weight and Squares are sums of w and of w².
	Weight, Squares float64
	// Distance is the sum of s.
	Distance float64
	// Sampled counts pairs whose y' was sampled from the reference; Divergence is their sum of log ref(y'|x) - log p(y'|x),
	// whose mean estimates KL(ref || p).
	Sampled    int
	Divergence float64
}

// Add adds one pair.
func (p *PairStats) Add(o PairObjective, v PairValues) {
	up, down := v.Chosen-v.RefChosen, v.Rejected-v.RefRejected
	p.Pairs++
	p.Loss += v.Weight * o.Value(v)
	p.Margin += o.Beta * (up - down)
	p.Chosen += v.Chosen
	p.Rejected += v.Rejected
	p.ChosenChange += up
	p.RejectedChange += down
	p.Weight += v.Weight
	p.Squares += v.Weight * v.Weight
	p.Distance += v.Distance
	if v.Sampled {
		p.Sampled++
		p.Divergence -= down
	}
	if v.Same {
		return
	}
	p.Differing++
	if up > down {
		p.Correct++
	}
}

// merge adds the sums of other pairs.
func (p *PairStats) merge(q PairStats) {
	p.Pairs += q.Pairs
	p.Loss += q.Loss
	p.Margin += q.Margin
	p.Chosen += q.Chosen
	p.Rejected += q.Rejected
	p.ChosenChange += q.ChosenChange
	p.RejectedChange += q.RejectedChange
	p.Differing += q.Differing
	p.Correct += q.Correct
	p.Weight += q.Weight
	p.Squares += q.Squares
	p.Distance += q.Distance
	p.Sampled += q.Sampled
	p.Divergence += q.Divergence
}

// softplus is log(1+exp(x)) = -log σ(-x), stable for any x.
func softplus(x float64) float64 { return math.Max(x, 0) + math.Log1p(math.Exp(-math.Abs(x))) }
