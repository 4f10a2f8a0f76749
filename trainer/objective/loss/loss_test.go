package loss

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/objective"
)

// logProbs are the log-probs of a few pairs, with their weights.
type logProbs struct{ chosen, rejected, refChosen, refRejected, weights []float64 }

func (p logProbs) len() int { return len(p.chosen) }

// part is pairs from to to-1.
func (p logProbs) part(from, to int) logProbs {
	return logProbs{
		p.chosen[from:to], p.rejected[from:to], p.refChosen[from:to], p.refRejected[from:to], p.weights[from:to],
	}
}

// dpo is the loss of LD-Align, SPIN and DPO as their papers have it.
func dpo(beta float64) objective.Preference { return objective.Preference{Kind: "sigmoid", Beta: beta} }

// tokens are lengths of the responses of pair i, as ipo reads them.
func tokens(i int) (chosen, rejected int) { return 3 + i%4, 2 + 3*i%5 }

// loss computes Preference in float64, with its gradients by the chosen and the rejected log-probs.
func (p logProbs) loss(
	t rapid.TB, engine *tensor.Engine, o objective.Preference, divisor int,
) (loss float64, up, down []float64) {
	t.Helper()
	err := engine.Do(context.Background(), func(s *tensor.Scope) error {
		n := int64(p.len())
		chosen := s.FromFloat64(p.chosen, n).RequiresGrad_(true)
		rejected := s.FromFloat64(p.rejected, n).RequiresGrad_(true)
		var ofChosen, ofRejected []float64
		for i := range p.chosen {
			c, r := tokens(i)
			ofChosen, ofRejected = append(ofChosen, float64(c)), append(ofRejected, float64(r))
		}
		l := Preference(o, Pairs{
			Chosen: chosen, Rejected: rejected, RefChosen: s.FromFloat64(p.refChosen, n),
			RefRejected: s.FromFloat64(p.refRejected, n), Weights: s.FromFloat64(p.weights, n),
			ChosenTokens: s.FromFloat64(ofChosen, n), RejectedTokens: s.FromFloat64(ofRejected, n),
		}, divisor)
		loss = l.Item()
		l.Backward()
		up, down = chosen.Grad().Float64s(), rejected.Grad().Float64s()
		return s.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	return loss, up, down
}

// stats are the same pairs by objective.Stats.
func (p logProbs) stats(o objective.Preference) objective.Stats {
	var sum objective.Stats
	for i := range p.chosen {
		v := objective.Values{
			Chosen: p.chosen[i], Rejected: p.rejected[i], RefChosen: p.refChosen[i], RefRejected: p.refRejected[i],
			Weight: p.weights[i],
		}
		v.ChosenTokens, v.RejectedTokens = tokens(i)
		sum.Add(o, v)
	}
	return sum
}

func drawLogProbs(t *rapid.T) logProbs {
	n := rapid.IntRange(1, 6).Draw(t, "pairs")
	draw := func(name string, low, high float64) []float64 {
		return rapid.SliceOfN(rapid.Float64Range(low, high), n, n).Draw(t, name)
	}
	return logProbs{
		draw("chosen", -60, 0), draw("rejected", -60, 0), draw("refChosen", -60, 0), draw("refRejected", -60, 0),
		draw("weights", 0, 4),
	}
}

func sigmoid(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

func within(t rapid.TB, what string, got, want, tolerance float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tolerance) { // so that NaN fails
		t.Errorf("%s: %.12g, want %.12g within %g", what, got, want, tolerance)
	}
}

// TestPairLossByHand is one pair computed on paper: the policy is at (-100, -90), the reference at (-105, -88).
func TestPairLossByHand(t *testing.T) {
	engine := newEngine(t)
	const beta = 0.1
	p := logProbs{[]float64{-100}, []float64{-90}, []float64{-105}, []float64{-88}, []float64{1}}
	loss, up, down := p.loss(t, engine, dpo(beta), 1)
	within(t, "loss", loss, 0.4031860489, 1e-10)
	within(t, "gradient by log p(y|x)", up[0], -beta*0.3318122278, 1e-10)
	within(t, "gradient by log p(y'|x)", down[0], beta*0.3318122278, 1e-10)

	got := p.stats(dpo(beta))
	want := objective.Stats{
		Pairs: 1, Loss: 0.4031860489, Margin: 0.7, Chosen: -100, Rejected: -90, ChosenChange: 5, RejectedChange: -2,
		Differing: 1, Correct: 1, Weight: 1, Squares: 1,
	}
	within(t, "objective.Stats.Loss", got.Loss, want.Loss, 1e-10)
	within(t, "objective.Stats.Margin", got.Margin, want.Margin, 1e-12)
	got.Loss, got.Margin = want.Loss, want.Margin
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}

	// with distances 1.2, 0.4, 2.0 and the same log-probs, the loss is that of the pair times each weight
	weighted := logProbs{
		slices.Repeat(p.chosen, 3), slices.Repeat(p.rejected, 3), slices.Repeat(p.refChosen, 3),
		slices.Repeat(p.refRejected, 3),
		[]float64{1, 1. / 3, 5. / 3},
	}
	loss, up, _ = weighted.loss(t, engine, dpo(beta), 3)
	within(t, "weighted loss", loss, 0.4031860489, 1e-10)
	for i, w := range weighted.weights {
		within(t, "weighted gradient", up[i], -beta*w*0.3318122278/3, 1e-10)
	}
}

// TestPairLossAtStepZero: where policy and reference agree, the loss is log 2 times the mean weight, and no pair counts as
// right.
func TestPairLossAtStepZero(t *testing.T) {
	p := logProbs{
		[]float64{-3, -70, -0.5},
		[]float64{-9, -1, -0.5},
		[]float64{-3, -70, -0.5},
		[]float64{-9, -1, -0.5},
		[]float64{1, 1. / 3, 5. / 3},
	}
	loss, up, down := p.loss(t, newEngine(t), dpo(0.1), 3)
	within(t, "loss", loss, math.Ln2, 1e-12)
	for i, w := range p.weights {
		within(t, "gradient by log p(y|x)", up[i], -0.1*w/2/3, 1e-12)
		within(t, "gradient by log p(y'|x)", down[i], 0.1*w/2/3, 1e-12)
	}
	got := p.stats(dpo(0.1))
	if got.Margin != 0 || got.Correct != 0 || got.Differing != 3 {
		t.Errorf("margin %v, %d of %d correct; want 0, 0 of 3", got.Margin, got.Correct, got.Differing)
	}
}

// TestPairLossGradient holds every loss against finite differences and against objective.Preference.Value, and DPO's gradient
// against the closed form -beta*w*sigmoid(-beta*margin)/B.
func TestPairLossGradient(t *testing.T) {
	engine := newEngine(t)
	rapid.Check(t, func(rt *rapid.T) {
		p := drawLogProbs(rt)
		o := rapid.SampledFrom([]objective.Preference{
			{Kind: "sigmoid"},
			{Kind: "sigmoid", Smoothing: 0.2},
			{Kind: "hinge"},
			{Kind: "ipo"},
			{Kind: "robust"},
			{Kind: "robust", Smoothing: 0.1},
		}).Draw(rt, "loss")
		o.Beta = rapid.Float64Range(0.01, 2).Draw(rt, "beta")
		n := p.len()
		loss, up, down := p.loss(rt, engine, o, n)
		within(rt, "loss", loss, p.stats(o).Loss/float64(n), 1e-9*(1+math.Abs(loss)))
		if o.Smoothing == 0 && o.Kind != "hinge" && o.Kind != "ipo" {
			want := 0.0
			for i := range n {
				margin := (p.chosen[i] - p.rejected[i]) - (p.refChosen[i] - p.refRejected[i])
				want += p.weights[i] * -math.Log(sigmoid(o.Beta*margin)) / float64(n)
				closed := o.Beta * p.weights[i] * sigmoid(-o.Beta*margin) / float64(n)
				within(rt, "closed form by chosen", up[i], -closed, 1e-12)
				within(rt, "closed form by rejected", down[i], closed, 1e-12)
			}
			within(rt, "loss by the formula", loss, want, 1e-9*(1+want))
		}
		const h = 1e-4
		i := rapid.IntRange(0, n-1).Draw(rt, "moved")
		if margin := (p.chosen[i] - p.rejected[i]) - (p.refChosen[i] - p.refRejected[i]); o.Kind == "hinge" &&
			math.Abs(1-o.Beta*margin) < 1e-3 {
			return // the corner has no derivative
		}
		for _, side := range []struct {
			values []float64
			grad   float64
		}{{p.chosen, up[i]}, {p.rejected, down[i]}} {
			at := side.values[i]
			side.values[i] = at + h
			above, _, _ := p.loss(rt, engine, o, n)
			side.values[i] = at - h
			below, _, _ := p.loss(rt, engine, o, n)
			side.values[i] = at
			within(rt, "finite difference", side.grad, (above-below)/(2*h), 1e-6*(1+math.Abs(side.grad)))
		}
	})
}

// TestLossesByHand is the pair of TestPairLossByHand, βΔ = 0.7, by every loss, on paper; the responses of pair 0 have 3 and
// 2 tokens.
func TestLossesByHand(t *testing.T) {
	engine := newEngine(t)
	p := logProbs{[]float64{-100}, []float64{-90}, []float64{-105}, []float64{-88}, []float64{2}}
	const right, wrong = 0.4031860489, 1.1031860489 // -log σ(0.7) and -log σ(-0.7)
	tests := []struct {
		objective objective.Preference
		want      float64
	}{
		{objective.Preference{Kind: "sigmoid", Beta: 0.1}, right},
		{objective.Preference{Kind: "sigmoid", Beta: 0.1, Smoothing: 0.25}, 0.75*right + 0.25*wrong},
		{objective.Preference{Kind: "robust", Beta: 0.1}, right},
		{objective.Preference{Kind: "robust", Beta: 0.1, Smoothing: 0.25}, (0.75*right - 0.25*wrong) / 0.5},
		{objective.Preference{Kind: "hinge", Beta: 0.1}, 0.3},
		{objective.Preference{Kind: "hinge", Beta: 0.2}, 0}, // 1.4 is beyond the hinge
		{objective.Preference{Kind: "ipo", Beta: 0.1}, (5./3 + 1 - 5) * (5./3 + 1 - 5)},
	}
	for _, test := range tests {
		loss, _, _ := p.loss(t, engine, test.objective, 1)
		within(t, fmt.Sprintf("%+v", test.objective), loss, 2*test.want, 1e-9)
	}
}

// TestLDAlignIsSPINIsDPO: with equal distances LD-Align's weights are 1, and its loss and gradients are SPIN's and DPO's to
// the last bit, whatever the loss.
func TestLDAlignIsSPINIsDPO(t *testing.T) {
	engine := newEngine(t)
	rapid.Check(t, func(rt *rapid.T) {
		p := drawLogProbs(rt)
		n := p.len()
		o := objective.Preference{
			Kind: rapid.SampledFrom([]string{"sigmoid", "hinge", "ipo", "robust"}).Draw(rt, "loss"),
			Beta: rapid.Float64Range(0.01, 2).Draw(rt, "beta"),
		}
		// a mean of equal numbers is that number exactly where the sum is exact
		distances := slices.Repeat([]float64{float64(rapid.IntRange(1, 1<<20).Draw(rt, "distance"))}, n)
		var results [][]float64
		for _, weight := range []string{"distance", "one", ""} {
			weighed := p
			weighed.weights = slices.Repeat([]float64{1}, n) // SPIN's and DPO's pairs
			if weight != "" {
				w, _, err := objective.Weights(distances, schemas.Spec{Objective: schemas.ObjectiveSpec{Weight: weight}, Seed: 1}, 0, 0)
				if err != nil {
					rt.Fatal(err)
				}
				weighed.weights = w
			}
			loss, up, down := weighed.loss(rt, engine, o, n)
			results = append(results, slices.Concat([]float64{loss}, up, down))
		}
		if !slices.Equal(results[0], results[2]) || !slices.Equal(results[1], results[2]) {
			rt.Errorf("loss and gradients differ: %v", results)
		}
	})
}

// TestPairLossIsStable: margins far beyond what exp can hold give the linear loss, and finite gradients.
func TestPairLossIsStable(t *testing.T) {
	p := logProbs{[]float64{-1e4, -1}, []float64{-1, -1e4}, []float64{-1, -1}, []float64{-1, -1}, []float64{1, 1}}
	loss, up, _ := p.loss(t, newEngine(t), dpo(1), 2)
	within(t, "loss", loss, 9999./2, 1e-9)
	within(t, "gradient of the wrong pair", up[0], -0.5, 1e-12)
	within(t, "gradient of the right pair", up[1], 0, 1e-12)
	within(t, "objective.Stats.Loss", p.stats(dpo(1)).Loss, 9999, 1e-9)
}

// TestPairLossPartsAddUp: the divisor is that of the whole optimizer step, so micro-batches of any cut give the loss and
// the gradients of the batch. It is not the sum of the weights: twice the weights are twice the loss.
func TestPairLossPartsAddUp(t *testing.T) {
	engine := newEngine(t)
	rapid.Check(t, func(rt *rapid.T) {
		p := drawLogProbs(rt)
		n := p.len()
		cut, o := rapid.IntRange(1, n).Draw(rt, "cut"), dpo(0.1)
		whole, up, down := p.loss(rt, engine, o, n)
		var sum float64
		var ups, downs []float64
		var stats objective.Stats
		for from := 0; from < n; from += cut {
			part := p.part(from, min(from+cut, n))
			loss, u, d := part.loss(rt, engine, o, n)
			sum += loss
			ups, downs = append(ups, u...), append(downs, d...)
			stats.Merge(part.stats(o))
		}
		within(rt, "loss", sum, whole, 1e-12)
		for i := range n {
			within(rt, "gradient by chosen", ups[i], up[i], 1e-15)
			within(rt, "gradient by rejected", downs[i], down[i], 1e-15)
		}
		within(rt, "objective.Stats.Loss", stats.Loss/float64(n), whole, 1e-12)
		all := p.stats(o)
		within(rt, "merged margin", stats.Margin, all.Margin, 1e-9)
		if stats.Pairs != n || stats.Correct != all.Correct || stats.Differing != all.Differing {
			rt.Errorf("merged %+v, want %+v", stats, all)
		}
		doubled := p
		doubled.weights = nil
		for _, w := range p.weights {
			doubled.weights = append(doubled.weights, 2*w)
		}
		twice, _, _ := doubled.loss(rt, engine, o, n)
		within(rt, "loss of doubled weights", twice, 2*whole, 1e-12)
	})
}

// TestPairLossIsDPOs holds weights of 1 against TRL; see testdata/make_goldens.py.
func TestPairLossIsDPOs(t *testing.T) {
	data, err := os.ReadFile("testdata/dpo.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Batches []struct {
			Beta           float64
			Chosen         []float64
			Rejected       []float64
			RefChosen      []float64 `json:"ref_chosen"`
			RefRejected    []float64 `json:"ref_rejected"`
			Loss           float64
			GradChosen     []float64 `json:"grad_chosen"`
			GradRejected   []float64 `json:"grad_rejected"`
			RewardChosen   float64   `json:"rewards_chosen"`
			RewardRejected float64   `json:"rewards_rejected"`
			Accuracies     float64
			Margins        float64
		}
	}
	if err := json.Unmarshal(data, &golden); err != nil {
		t.Fatal(err)
	}
	if len(golden.Batches) == 0 {
		t.Fatal("testdata/dpo.json holds no batch")
	}
	engine := newEngine(t)
	const tolerance = 1e-6
	for _, g := range golden.Batches {
		n := len(g.Chosen)
		p := logProbs{g.Chosen, g.Rejected, g.RefChosen, g.RefRejected, slices.Repeat([]float64{1}, n)}
		loss, up, down := p.loss(t, engine, dpo(g.Beta), n)
		within(t, "loss", loss, g.Loss, tolerance)
		for i := range n {
			within(t, "gradient by chosen", up[i], g.GradChosen[i], tolerance)
			within(t, "gradient by rejected", down[i], g.GradRejected[i], tolerance)
		}
		got := p.stats(dpo(g.Beta))
		record := got.Means()
		within(t, "mean loss", got.Loss/float64(n), g.Loss, tolerance)
		within(t, "accuracy", record.Accuracy, g.Accuracies, tolerance)
		within(t, "margin", record.Margin, g.Margins, tolerance)
		within(t, "chosen reward", g.Beta*record.ChosenChange, g.RewardChosen, tolerance)
		within(t, "rejected reward", g.Beta*record.RejectedChange, g.RewardRejected, tolerance)
	}
}

func TestSequences(t *testing.T) {
	engine := newEngine(t)
	logp := []float64{-3, -7.5, -0.25}
	const tokens = 11
	var loss float64
	var grads []float64
	do(t, engine, func(s *tensor.Scope) error {
		x := s.FromFloat64(logp, 3).RequiresGrad_(true)
		l := Sequences(x, tokens)
		loss = l.Item()
		l.Backward()
		grads = x.Grad().Float64s()
		// parts add up, as the number of tokens is that of the whole step
		parts := Sequences(x.Narrow(0, 0, 1), tokens).Add(Sequences(x.Narrow(0, 1, 2), tokens))
		within(t, "parts", parts.Item(), loss, 1e-15)
		return s.Err()
	})
	within(t, "loss", loss, 10.75/tokens, 1e-12)
	const h = 1e-5
	for i := range logp {
		moved := slices.Clone(logp)
		moved[i] += h
		do(t, engine, func(s *tensor.Scope) error {
			within(t, "finite difference", (Sequences(s.FromFloat64(moved, 3), tokens).Item()-loss)/h, grads[i], 1e-8)
			return s.Err()
		})
	}
}
