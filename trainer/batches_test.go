package trainer_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/trainer"
	"github.com/ldalign/ldalign/trainer/schedule"
)

// TestBatchesAreRecorded: each policy and the guide say which pairs each step was made of, as the plan has it, and the
// pairs are those of the log.
func TestBatchesAreRecorded(t *testing.T) {
	w := newWorld(t)
	spec := testSpec("recorded", func(s *schemas.Spec) { s.Training.Epochs = 2 })
	w.finish(spec)
	for i := range uint32(2) {
		var logged []string
		for _, m := range w.collect(schemas.Scored, spec.Run, i) {
			logged = append(logged, m.ID())
		}
		want := checkpoints.Batches{Pairs: logged}
		for epoch := range 2 {
			order := schedule.Permutation(12, spec.Seed, schedule.Policy, i, epoch)
			for batch := range slices.Chunk(order, 4) {
				want.Steps = append(want.Steps, checkpoints.Batch{Step: len(want.Steps) + 1, Epoch: epoch, Pairs: batch})
			}
		}
		if diff := cmp.Diff(want, w.batches(w.policy(spec.Run, i+1))); diff != "" {
			t.Errorf("policy %d (-want +got):\n%s", i+1, diff)
		}
	}
	if got := w.batches(w.latest(spec.Run, checkpoints.Guide)); len(got.Pairs) != 12 || len(got.Steps) != 3 {
		t.Errorf("the guide was made of %d pairs in %d steps, want 12 in 3", len(got.Pairs), len(got.Steps))
	}
	if _, ok := w.policy(spec.Run, 0).File(checkpoints.BatchesFile); ok {
		t.Error("policy 0 was not trained, but says which pairs it was trained on")
	}
}

// TestBatchesNameWhatIsSkipped: a prompt over the length rule is not trained on, and the record says so.
func TestBatchesNameWhatIsSkipped(t *testing.T) {
	w := newWorld(t)
	spec := handMade("skipped")
	spec.Data.Overlong = "reject"
	for i := range 6 {
		p := handMadePrompt(spec.Run, i)
		if i == 2 {
			p.Response = strings.Repeat("too long ", 40)
		}
		w.publish(schemas.Prompts, p)
	}
	w.publish(schemas.Control, &events.Control{Schema: events.Version, Run: spec.Run, Kind: "closed", Total: 6})
	w.train(spec)
	got := w.batches(w.policy(spec.Run, 1))
	want := []checkpoints.Skipped{{ID: schemas.PairID(spec.Run, 0, "p2", 0), Reason: schemas.ReasonTooLong}}
	if diff := cmp.Diff(want, got.Skipped); diff != "" || len(got.Pairs) != 5 {
		t.Errorf("%d pairs are trained on, want 5; skipped (-want +got):\n%s", len(got.Pairs), diff)
	}
}

// TestOtherPairsAreRefused: a state goes on with the pairs that its steps were made of, or not at all.
func TestOtherPairsAreRefused(t *testing.T) {
	w := newWorld(t)
	w.publishPrompts("others", 0, 1, 2, 3, 4, 5)
	ctx, meter := stopAt(t.Context(), "train sft 0", 1)
	if err := w.trainer(handMade("others"), meter).Run(ctx); !errors.Is(err, trainer.ErrInterrupted) {
		t.Fatal(err)
	}
	w.openStreams(t.TempDir()) // the log was lost, and filled again with one pair less
	for i := range 2 {         // of another iteration, so that the log is no shorter
		p := handMadePrompt("others", i)
		p.Iteration, p.PairId = 1, schemas.PairID("others", 1, p.GetPromptId(), 0)
		w.publish(schemas.Prompts, p)
	}
	w.publishPrompts("others", 5, 0, 1, 2, 3)
	err := w.trainer(handMade("others"), silent).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "the 6 pairs that checkpoint runs/others/checkpoints/00000002.json was trained on are not those in the log, which has 4") {
		t.Errorf("got %v, want an error that tells of lost pairs", err)
	}
}
