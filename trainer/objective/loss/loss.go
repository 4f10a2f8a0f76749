// Package loss computes the losses of package objective on tensors, so that gradients flow through them. The equations are
// cited there.
package loss

import (
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/trainer/objective"
)

// Pairs contains the numbers of B pairs, each [B] of one float type. The log-probs are sums over response tokens, in nats.
type Pairs struct {
	// Chosen and Rejected are log p(y|x) and log p(y'|x). Gradients flow through them only.
	Chosen, Rejected *tensor.Tensor
	// RefChosen and RefRejected are the same under the reference.
	RefChosen, RefRejected *tensor.Tensor
	Weights                *tensor.Tensor
	// ChosenTokens and RejectedTokens count the tokens of y and y'. Only ipo reads them.
	ChosenTokens, RejectedTokens *tensor.Tensor
}

// Preference is the sum of weight times the loss of o over the pairs of b, divided by divisor: the number of pairs in the
// optimizer step of which these B are a part. Dividing by the sum of the weights instead would undo the normaliser inside
// each batch. The result is a scalar.
func Preference(o objective.Preference, b Pairs, divisor int) *tensor.Tensor {
	return negated(o, b).Mul(b.Weights).Sum().MulScalar(-1 / float64(divisor))
}

// negated is minus the loss of each pair, [B].
func negated(o objective.Preference, b Pairs) *tensor.Tensor {
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

// Sequences is the loss of SFT and Continual SFT: minus the sum of log-probs, [B], over the number of response tokens in
// the whole optimizer step. The result is a scalar: the mean negative log-likelihood of a token, weighted by this part's
// share.
func Sequences(logp *tensor.Tensor, tokens int) *tensor.Tensor {
	return logp.Sum().MulScalar(-1 / float64(tokens))
}
