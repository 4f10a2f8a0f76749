package trainer_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/trainer"
)

// TestMix: each iteration trains its own pairs and those of the previous iteration, once per epoch. It weights both together
// and uses the policy that it starts from as the reference of both. An interrupted iteration ends with the same bits.
func TestMix(t *testing.T) {
	w := newWorld(t)
	mixed := func(s *schemas.Spec) { s.Objective.Mix, s.Training.Epochs = "previous", 2 }
	w.finish(testSpec("mixed", mixed))
	want := w.results("mixed")
	for i := range uint32(2) {
		policy := w.policy("mixed", i+1)
		batches := w.batches(policy)
		own := ids(w.collect(schemas.Scored, "mixed", i))
		pairs, earlier := own, 0
		if i > 0 {
			before := ids(w.collect(schemas.Scored, "mixed", i-1))
			pairs, earlier = slices.Concat(own, before), len(before)
		}
		if !slices.Equal(batches.Pairs, pairs) || batches.Earlier != earlier {
			t.Errorf("iteration %d trained %d pairs, %d of them earlier ones; want %d, %d", i, len(batches.Pairs), batches.Earlier,
				len(pairs), earlier)
		}
		if err := batches.Verify(true); err != nil {
			t.Error(err)
		}
		if n, _ := metric(policy, "earlier_pairs"); n != float64(earlier) {
			t.Errorf("iteration %d: the manifest says %v earlier pairs, want %d", i, n, earlier)
		}
		first, weights := w.records(policy)[0], 0.0
		within(t, "margin at step 0", first.Pairs.Margin, 0, 1e-4)
		for _, r := range w.records(policy)[:len(batches.Pairs)/4] { // an epoch
			weights += 4 * r.Pairs.Weight
		}
		within(t, "mean weight", weights/float64(len(pairs)), 1, 1e-9)
	}
	for _, stop := range []struct{ iteration, step int }{{0, 3}, {0, 6}, {1, 1}, {1, 7}, {1, 12}} {
		ctx, meter := stopAt(t.Context(), fmt.Sprintf("train ldalign %d", stop.iteration), stop.step)
		if err := w.work(ctx, testSpec("stopped", mixed), meter); !errors.Is(err, trainer.ErrInterrupted) {
			t.Fatalf("iteration %d, step %d: %v", stop.iteration, stop.step, err)
		}
	}
	w.finish(testSpec("stopped", mixed))
	if diff := cmp.Diff(want, w.results("stopped")); diff != "" {
		t.Errorf("(-undisturbed +stopped):\n%s", diff)
	}
}

// TestMixWithAnAdapter: the reference of earlier pairs is the policy with its adapter merged, in a trainer that merged it and
// in one that loaded it.
func TestMixWithAnAdapter(t *testing.T) {
	w := newWorld(t)
	adapted := func(s *schemas.Spec) {
		s.Objective.Kind, s.Objective.Mix = "spin", "previous"
		s.Training.LoRA = &schemas.LoRASpec{Rank: 2, Alpha: 4, Targets: schemas.AllLinear, Scaling: "lora"}
	}
	w.finish(testSpec("whole", adapted))
	within(t, "margin at step 0", w.records(w.policy("whole", 2))[0].Pairs.Margin, 0, 1e-4)
	ctx, meter := stopAt(t.Context(), "train spin 1", 4)
	if err := w.work(ctx, testSpec("stopped", adapted), meter); !errors.Is(err, trainer.ErrInterrupted) {
		t.Fatal(err)
	}
	w.finish(testSpec("stopped", adapted))
	if diff := cmp.Diff(w.results("whole"), w.results("stopped")); diff != "" {
		t.Errorf("(-undisturbed +stopped):\n%s", diff)
	}
}

// TestInitialReference: iteration 1 compares with the run's first policy, so its margins do not start at zero, and every pair
// names that policy as its reference.
func TestInitialReference(t *testing.T) {
	w := newWorld(t)
	initial := func(s *schemas.Spec) {
		s.Objective.Kind, s.Objective.Reference, s.Objective.Mix = "spin", "initial", "previous"
	}
	w.finish(testSpec("initial", initial))
	zero, one := w.policy("initial", 0), w.policy("initial", 1)
	for i := range uint32(2) {
		for _, m := range w.collect(schemas.Pairs, "initial", i) {
			p := m.(*events.Pair)
			if p.ReferenceDigest() != zero.Digest || (p.GetReference() == "") != (i == 0) {
				t.Errorf("pair of iteration %d has log-probs of %.12s, want %.12s", i, p.ReferenceDigest(), zero.Digest)
			}
		}
	}
	before, after := w.records(one), w.records(w.policy("initial", 2))
	within(t, "margin as the run starts", before[0].Pairs.Margin, 0, 1e-4)
	if after[0].Pairs.Margin < before[1].Pairs.Margin/2 {
		t.Errorf("iteration 1 starts at margin %v from the first policy, after iteration 0 had come to %v",
			after[0].Pairs.Margin, before[2].Pairs.Margin)
	}
	if before[0].Pairs.KL == nil || after[0].Pairs.KL != nil {
		t.Error("KL(ref || p) is estimated by samples of the reference, and by no others")
	}
}

// annotated begins a DPO run and gives what makes its pairs, whose numbers a test changes.
func (w *world) annotated(run string) (schemas.Spec, func(i int) *events.Pair) {
	w.t.Helper()
	return w.handMadePairs(run, "dpo")
}

// handMadePairs begins a run and gives what makes its pairs.
func (w *world) handMadePairs(run, objective string) (schemas.Spec, func(i int) *events.Pair) {
	w.t.Helper()
	spec := testSpec(run, func(s *schemas.Spec) { s.Objective.Kind, s.Iterations, s.Training.Batch = objective, 1, 2 })
	ctx, cancel := context.WithCancel(w.t.Context())
	err := w.trainer(spec, func(string, int, int) { cancel() }).Run(ctx) // policy 0 is there, and it waits for pairs
	cancel()
	if !errors.Is(err, context.Canceled) {
		w.t.Fatal(err)
	}
	base := w.policy(run, 0)
	w.publish(schemas.Control, &events.Control{Schema: events.Version, Run: run, Kind: "closed", Total: 6})
	return spec, func(i int) *events.Pair {
		prompt := handMadePrompt(run, i)
		w.publish(schemas.Prompts, prompt)
		return &events.Pair{
			Schema: events.Version, Prompt: prompt, PromptIds: []int64{5, 6, int64(7 + i)}, ChosenIds: []int64{8, 9, 2},
			RejectedIds: []int64{10, int64(11 + i), 12, 2}, ChosenLogp: -15, RejectedLogp: -20, PolicyDigest: base.Digest,
		}
	}
}

// TestPairsOfAnotherReference are refused with both digests, and so are pairs that other weights have made.
func TestPairsOfAnotherReference(t *testing.T) {
	for name, change := range map[string]func(*events.Pair){
		"reference": func(p *events.Pair) { p.Reference = strings.Repeat("ab", 32) },
		"weights":   func(p *events.Pair) { p.PolicyDigest = strings.Repeat("ab", 32) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			spec, pair := w.annotated("other")
			for i := range 6 {
				p := pair(i)
				if i == 3 {
					change(p)
				}
				w.publish(schemas.Pairs, p)
			}
			err := w.trainer(spec, silent).Run(t.Context())
			base := w.policy("other", 0).Digest[:12]
			if err == nil || !strings.Contains(err.Error(), "abababababab") || !strings.Contains(err.Error(), base) ||
				!strings.Contains(err.Error(), handMadePrompt("other", 3).ID()) {
				t.Errorf("got %v, want an error that names the pair, abababababab and %s", err, base)
			}
		})
	}
}

// TestAnnotatedPairs: DPO over given pairs. Two equal responses move nothing and are counted; a pair with an empty one, or with
// a token that the model does not have, is left out and named.
func TestAnnotatedPairs(t *testing.T) {
	w := newWorld(t)
	spec, pair := w.annotated("annotated")
	for i := range 6 {
		p := pair(i)
		switch i {
		case 1:
			p.RejectedIds, p.RejectedLogp = p.ChosenIds, p.ChosenLogp
		case 4:
			p.RejectedIds = nil
		case 5:
			p.PromptIds = []int64{1 << 40}
		}
		w.publish(schemas.Pairs, p)
	}
	w.train(spec)
	policy := w.policy("annotated", 1)
	want := []checkpoints.Skipped{
		{ID: handMadePrompt("annotated", 4).ID(), Reason: schemas.ReasonEmpty},
		{ID: handMadePrompt("annotated", 5).ID(), Reason: schemas.ReasonInvalid},
	}
	if diff := cmp.Diff(want, w.batches(policy).Skipped); diff != "" {
		t.Errorf("left out (-want +got):\n%s", diff)
	}
	for name, want := range map[string]float64{"pairs": 4, "refused": 2, "identical_share": 0.25, "effective_sample_size": 4} {
		if got, _ := metric(policy, name); math.Abs(got-want) > 1e-12 {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	for _, r := range w.records(policy) {
		if math.IsNaN(r.Loss) || math.IsInf(r.Loss, 0) || r.Pairs.KL != nil {
			t.Errorf("step %d: loss %v, KL %v; annotated pairs sample nothing", r.Step, r.Loss, r.Pairs.KL)
		}
	}
}

// TestGuideOfOddTokens: a pair with a token that the model does not have is left out of the guide's training and named.
func TestGuideOfOddTokens(t *testing.T) {
	w := newWorld(t)
	spec, pair := w.handMadePairs("odd", "ldalign")
	for i := range 6 {
		p := pair(i)
		if i == 2 {
			p.RejectedIds = append(p.RejectedIds, 1<<20)
		}
		w.publish(schemas.Pairs, p)
	}
	guideOnly := w.trainer(spec, silent)
	guideOnly.GuideOnly = true
	if err := guideOnly.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := w.batches(w.latest("odd", checkpoints.Guide))
	want := []checkpoints.Skipped{{ID: handMadePrompt("odd", 2).ID(), Reason: schemas.ReasonInvalid}}
	if diff := cmp.Diff(want, got.Skipped); diff != "" || len(got.Pairs) != 5 {
		t.Errorf("%d pairs, left out (-want +got):\n%s", len(got.Pairs), diff)
	}
}
