// Package objective defines the objectives as pure functions of numbers: the losses of pairs with their statistics, and the
// weights of an iteration (w = s / normaliser, arXiv 2404.06390). It needs no tensors; package loss computes the same losses on
// tensors.
package objective

import (
	"math"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/curves"
)

// TrainsFrom returns the kind of messages that an objective is trained on.
func TrainsFrom(kind string) schemas.Kind {
	switch kind {
	case "sft":
		return schemas.Prompts
	case "ldalign":
		return schemas.Scored
	default:
		return schemas.Pairs
	}
}

// Name returns the paper's name of an objective.
func Name(spec schemas.Spec) string {
	switch spec.Objective.Kind {
	case "ldalign":
		switch spec.Objective.Weight {
		case "one":
			return "LD-Align (w = 1)"
		case "shuffled":
			return "Shuffled weights"
		}
		return "LD-Align"
	case "spin":
		return "SPIN"
	case "dpo":
		return "DPO"
	default:
		if spec.Iterations > 1 {
			return "Continual SFT"
		}
		if spec.Model.From == "scratch" { // as opposed to fine-tuning a trained model
			return "SFT from scratch"
		}
		return "SFT"
	}
}

// Preference is what LD-Align, SPIN and DPO minimise: a loss of each pair, times the pair's weight. They differ in the
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
type Preference struct {
	// Kind is sigmoid, hinge, ipo or robust.
	Kind string
	// Beta is β, greater than 0.
	Beta float64
	// Smoothing is ε, in [0, 0.5): the share of pairs assumed to have chosen and rejected swapped.
	Smoothing float64
}

// PreferenceOf returns the objective of a spec.
func PreferenceOf(o schemas.ObjectiveSpec) Preference {
	return Preference{Kind: o.Loss, Beta: o.Beta, Smoothing: o.LabelSmoothing}
}

// Values are the numbers of one pair: log-probs are sums over response tokens, in nats, under the policy (Chosen for y,
// Rejected for y') and under the reference.
type Values struct {
	Chosen, Rejected, RefChosen, RefRejected, Weight float64
	ChosenTokens, RejectedTokens                     int
	// Same says that both responses have the same tokens.
	Same bool
	// Distance is s, if the pair has one.
	Distance float64
	// Sampled says that y' was sampled from the reference itself.
	Sampled bool
}

// Value is the loss of a pair, without its weight.
func (o Preference) Value(p Values) float64 {
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

// Stats contains sums over pairs, for the learning curves. Stats of the parts of a batch add up to those of the batch.
type Stats struct {
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
func (p *Stats) Add(o Preference, v Values) {
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

// Merge adds the sums of other pairs.
func (p *Stats) Merge(q Stats) {
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

// Means returns the means that a step records; nil if there are no pairs.
func (p Stats) Means() *curves.Pairs {
	if p.Pairs == 0 {
		return nil
	}
	n := float64(p.Pairs)
	r := &curves.Pairs{
		Pairs: p.Pairs, Margin: p.Margin / n, Differing: p.Differing, ChosenLogp: p.Chosen / n, RejectedLogp: p.Rejected / n,
		ChosenChange: p.ChosenChange / n, RejectedChange: p.RejectedChange / n, Weight: p.Weight / n, Distance: p.Distance / n,
	}
	if p.Differing > 0 {
		r.Accuracy = float64(p.Correct) / float64(p.Differing)
	}
	if p.Squares > 0 {
		r.EffectiveSize = p.Weight * p.Weight / p.Squares
	}
	if p.Sampled > 0 {
		kl := p.Divergence / float64(p.Sampled)
		r.KL = &kl
	}
	return r
}

// softplus is log(1+exp(x)) = -log σ(-x), stable for any x.
func softplus(x float64) float64 { return math.Max(x, 0) + math.Log1p(math.Exp(-math.Abs(x))) }

func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }
