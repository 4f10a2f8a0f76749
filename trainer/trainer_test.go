package trainer

import (
	"math"
	"testing"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// TestTwoIterations takes LD-Align through two iterations and holds what it leaves against the method.
func TestTwoIterations(t *testing.T) {
	w := newWorld(t)
	spec := testSpec("ld")
	w.finish(spec)
	guide := w.latest("ld", checkpoints.Guide)
	if len(w.records(guide)) != 3 {
		t.Errorf("%d steps of the guide, want 3", len(w.records(guide)))
	}
	for i := range uint32(2) {
		base, trained := w.policy("ld", i), w.policy("ld", i+1)
		if trained.Parent != base.Digest {
			t.Errorf("policy %d has parent %.12s, want %.12s", i+1, trained.Parent, base.Digest)
		}
		if w.file(base, weightsFile).SHA256 == w.file(trained, weightsFile).SHA256 {
			t.Errorf("iteration %d left the weights as they were", i)
		}
		var distances []float64
		for _, m := range w.collect(schemas.Scored, "ld", i) {
			scored := m.(*events.Scored)
			if scored.GetPair().GetWeights() != base.Digest || scored.GetGuide() != guide.Digest {
				t.Fatalf("pair %s was made by other weights", m.ID())
			}
			distances = append(distances, scored.GetDistance())
		}
		weights, normaliser, err := Weights(distances, spec.Objective, spec.Seed, i, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := metric(trained, normaliserMetric); got != normaliser {
			t.Errorf("iteration %d: normaliser %v, want %v", i, got, normaliser)
		}
		records := w.records(trained)
		if len(records) != 3 || trained.Step != 3 {
			t.Fatalf("iteration %d: %d records, step %d; want 3", i, len(records), trained.Step)
		}
		// at step 0 the policy is the reference: every margin is 0 and the loss is log 2 times the batch's mean weight
		var sum float64
		for _, k := range Permutation(len(weights), spec.Seed, "policy", i, 0)[:spec.Training.Batch] {
			sum += weights[k]
		}
		first := records[0]
		within(t, "loss at step 0", first.Loss, math.Ln2*sum/float64(spec.Training.Batch), 1e-4)
		within(t, "margin at step 0", first.Pairs.Margin, 0, 1e-4)
		if records[2].Pairs.Margin <= 1e-3 {
			t.Errorf("iteration %d: the margin stays at %v", i, records[2].Pairs.Margin)
		}
	}
}
