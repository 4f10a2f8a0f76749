package trainer_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams/ledger"
	"github.com/ldalign/ldalign/trainer"
)

// handMade is an SFT run whose messages a test publishes itself: 6 prompts, closed.
func handMade(run string) schemas.Spec {
	return testSpec(run, func(s *schemas.Spec) {
		s.Objective.Kind, s.Iterations, s.Training.Batch, s.Data.MaxResponseTokens = "sft", 1, 2, 16
	})
}

func handMadePrompt(run string, i int) *events.Prompt {
	id := fmt.Sprintf("p%d", i)
	return &events.Prompt{
		Schema: events.Version, Run: run, PairId: schemas.PairID(run, 0, id, 0), PromptId: id, Position: uint64(i), Total: 6,
		Prompt: fmt.Sprintf("Question %d?", i), Response: fmt.Sprintf("Answer %d.", i),
	}
}

func (w *world) publish(kind schemas.Kind, messages ...events.Message) {
	w.t.Helper()
	for _, m := range messages {
		w.declare(m.GetRun())
	}
	if err := w.streams.Publish(w.t.Context(), kind, messages...); err != nil {
		w.t.Fatal(err)
	}
}

// publishPrompts publishes prompts in the order given, dead letters for those that are not among them, and that the
// iteration is closed.
func (w *world) publishPrompts(run string, which ...int) {
	w.t.Helper()
	there := map[int]bool{}
	for _, i := range which {
		there[i] = true
		w.publish(schemas.Prompts, handMadePrompt(run, i))
	}
	for i := range 6 {
		if there[i] {
			continue
		}
		dead := handMadePrompt(run, i)
		original, err := proto.Marshal(dead)
		if err != nil {
			w.t.Fatal(err)
		}
		w.publish(schemas.DeadLetters, &events.DeadLetter{
			Schema: events.Version, Run: run, Stage: "trainer", Reason: schemas.ReasonPoison, Stream: "prompts",
			Sequence: uint64(1000 + i), Subject: schemas.Subject(schemas.Prompts, run, 0), PairId: dead.ID(), Original: original,
		})
	}
	w.publish(schemas.Control, &events.Control{Schema: events.Version, Run: run, Kind: "closed", Total: 6})
}

// redrive puts back what is dead of a run.
func (w *world) redrive(run string) {
	w.t.Helper()
	letters, err := ledger.DeadLetters(w.t.Context(), w.streams, run)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, l := range letters {
		if err := ledger.Redrive(w.t.Context(), w.streams, run, l.Seq); err != nil {
			w.t.Fatal(err)
		}
	}
}

// train runs a trainer without stages.
func (w *world) train(spec schemas.Spec) {
	w.t.Helper()
	if err := w.trainer(spec, silent).Run(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// TestOrderOfArrivalDoesNotMatter: pairs are trained in the prompter's order, whoever was first to be done.
func TestOrderOfArrivalDoesNotMatter(t *testing.T) {
	w := newWorld(t)
	w.publishPrompts("in-order", 0, 1, 2, 3, 4, 5)
	w.publishPrompts("as-they-come", 4, 0, 5, 3, 1, 2)
	w.train(handMade("in-order"))
	w.train(handMade("as-they-come"))
	if diff := cmp.Diff(w.results("in-order"), w.results("as-they-come")); diff != "" {
		t.Errorf("(-in order +as they come):\n%s", diff)
	}
}

// TestPairThatComesBack: an iteration goes on without a dead pair. When the letter is redriven after a state was saved,
// the run that goes on still trains on what it began with; one that begins afterwards takes the pair in.
func TestPairThatComesBack(t *testing.T) {
	w := newWorld(t)
	w.publishPrompts("without", 0, 1, 2, 4, 5)
	w.train(handMade("without"))
	w.publishPrompts("with", 0, 1, 2, 3, 4, 5)
	w.train(handMade("with"))
	if cmp.Equal(w.results("without"), w.results("with")) {
		t.Fatal("the pair makes no difference: the test shows nothing")
	}
	w.publishPrompts("before", 0, 1, 2, 4, 5)
	w.redrive("before")
	w.train(handMade("before"))
	if diff := cmp.Diff(w.results("with"), w.results("before")); diff != "" {
		t.Errorf("the pair came back before the iteration began (-with +got):\n%s", diff)
	}
	w.publishPrompts("after", 0, 1, 2, 4, 5)
	ctx, meter := stopAt(t.Context(), "train sft 0", 1)
	if err := w.trainer(handMade("after"), meter).Run(ctx); !errors.Is(err, trainer.ErrInterrupted) {
		t.Fatal(err)
	}
	w.redrive("after")
	w.train(handMade("after"))
	if diff := cmp.Diff(w.results("without"), w.results("after")); diff != "" {
		t.Errorf("the pair came back after a state was saved (-without +got):\n%s", diff)
	}
}

func TestNothingToTrainOn(t *testing.T) {
	w := newWorld(t)
	w.publishPrompts("dead")
	err := w.trainer(handMade("dead"), silent).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "6 pairs are dead letters") {
		t.Errorf("got %v, want an error that counts the dead letters", err)
	}
}

// TestPairsOfOtherWeightsAreRefused: log-probs of another checkpoint are no reference.
func TestPairsOfOtherWeightsAreRefused(t *testing.T) {
	w := newWorld(t)
	spec := testSpec("mixed", func(s *schemas.Spec) { s.Objective.Kind, s.Iterations = "spin", 1 })
	w.publish(schemas.Pairs, &events.Pair{
		Schema: events.Version, Prompt: handMadePrompt("mixed", 0), PromptIds: []int64{5, 6}, ChosenIds: []int64{7, 2},
		RejectedIds: []int64{8, 2}, ChosenLogp: -9, RejectedLogp: -8, PolicyDigest: strings.Repeat("ab", 32),
	})
	w.publish(schemas.Control, &events.Control{Schema: events.Version, Run: "mixed", Kind: "closed", Total: 1})
	err := w.trainer(spec, silent).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "was sampled by checkpoint abababababab") {
		t.Errorf("got %v, want an error that names the other checkpoint", err)
	}
}
