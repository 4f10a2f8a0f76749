package runs

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/ops/runs/derive"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
)

// What a run has is told as it is, and what it lacks with the reason.
func TestFacts(t *testing.T) {
	w := newWorld(t)
	spec := w.finished("align")
	first, err := w.Checkpoints.Policy(t.Context(), "align", 1)
	w.must(err)
	_, err = w.Checkpoints.Expire(t.Context(), "align", []checkpoints.Manifest{first}, "retention.policies: 1", false)
	w.must(err)
	w.closes("align", 2, 2)
	w.publish(schemas.Scored, &events.Scored{Schema: events.Version, Pair: &events.Pair{
		Schema: events.Version, Prompt: prompt("align", 2, 0), ChosenLogp: -1, RejectedLogp: -2,
	}})
	facts, err := Facts(t.Context(), w.Session, spec, derive.Needs{
		Runs: []string{"align", "nobody"}, Policies: []int{0, 1, 7, derive.Newest}, Kind: schemas.Scored, First: 1, End: 4, Guide: true,
	})
	w.must(err)
	if len(facts.Declared) != 1 || cmp.Diff(spec, facts.Declared["align"]) != "" {
		t.Errorf("declared: %v", facts.Declared)
	}
	newest, err := w.Checkpoints.Policy(t.Context(), "align", 2)
	w.must(err)
	if p := facts.Policies[derive.Newest]; p != (derive.Policy{Iteration: 2, Digest: newest.Digest}) {
		t.Errorf("newest policy: %+v", p)
	}
	if p := facts.Policies[0]; p.Missing != nil || p.Digest == "" {
		t.Errorf("policy 0: %+v", p)
	}
	if p := facts.Policies[1]; !errors.Is(p.Missing, checkpoints.ErrExpired) || !strings.Contains(p.Missing.Error(), "retention.policies: 1") {
		t.Errorf("policy 1, whose weights were removed: %v", p.Missing)
	}
	if p := facts.Policies[7]; !errors.Is(p.Missing, checkpoints.ErrNoCheckpoint) {
		t.Errorf("policy 7: %v", p.Missing)
	}
	if p := facts.Parts[1]; p != (derive.Part{First: pairsPerIteration + 1, Last: 2 * pairsPerIteration}) {
		t.Errorf("iteration 1: %+v", p)
	}
	for i, says := range map[int]string{2: "iteration 2 of run align has 1 of 2 scored", 3: "iteration 3 of run align is not closed"} {
		if p := facts.Parts[i]; !errors.Is(p.Missing, streams.ErrIncomplete) || !strings.Contains(p.Missing.Error(), says) {
			t.Errorf("iteration %d: %v, want %q", i, p.Missing, says)
		}
	}
	if _, read := facts.Parts[0]; read || facts.Guide {
		t.Errorf("iteration 0 was not asked for, and there is no guide: %+v", facts)
	}
	_, err = w.Checkpoints.Commit(t.Context(), "align", checkpoints.Draft{Kind: checkpoints.Guide})
	w.must(err)
	if facts, err = Facts(t.Context(), w.Session, spec, derive.Needs{Guide: true}); err != nil || !facts.Guide {
		t.Errorf("guide: %v, %v", facts.Guide, err)
	}
}

// What a plan needs can be read, and the replay that comes of it counts its parent's pairs and costs what the parent's log says.
func TestReplayIsPlannedFromALog(t *testing.T) {
	w := newWorld(t)
	parent := w.finished("align")
	request := derive.Replay{As: "again", From: schemas.Scored, Set: []string{"training.epochs=3"}, OffPolicy: true}
	needs, err := request.Needs(parent)
	w.must(err)
	facts, err := Facts(t.Context(), w.Session, parent, needs)
	w.must(err)
	spec, err := request.Plan(parent, facts)
	w.must(err)
	if s := spec.Source; s.First != 1 || s.Last != 2*pairsPerIteration || s.Policy != facts.Policies[0].Digest {
		t.Errorf("source: %+v", s)
	}
	combinations := derive.Sweep{Replay: derive.Replay{
		As: "align", From: schemas.Scored, Set: []string{"training.epochs=1,3"}, OffPolicy: true,
	}}
	sweep, err := PlanSweep(t.Context(), w.Session, parent, combinations)
	w.must(err)
	for i := range uint32(3) {
		if done := sweep[0].Done || sweep[1].Done; done {
			t.Errorf("with %d of 3 policies, done are %v and %v", i, sweep[0].Done, sweep[1].Done)
		}
		w.policy(sweep[0].Spec, i)
		sweep, err = PlanSweep(t.Context(), w.Session, parent, combinations)
		w.must(err)
	}
	one, three := sweep[0], sweep[1]
	if !one.Done || three.Done {
		t.Errorf("done are %v and %v, want the first alone", one.Done, three.Done)
	}
	if three.Run != "align-epochs-3" || three.Pairs != 2*pairsPerIteration || three.Steps != 3*one.Steps || one.Steps != pairsPerIteration ||
		one.Seconds <= 0 || three.Seconds <= one.Seconds {
		t.Errorf("sweep: %+v", sweep)
	}
	w.policy(spec, 0)
	w.declare(spec)
	for i := range uint32(2) {
		w.closes("again", i, pairsPerIteration)
		w.policy(spec, i+1)
	}
	balances, err := Audit(t.Context(), w.Session, spec, AuditOptions{Iteration: streams.AllIterations})
	w.must(err)
	if len(balances) != 2 || !balances[1].Balances() || balances[1].Trained != pairsPerIteration || balances[1].Scored != pairsPerIteration {
		t.Errorf("audit of the replay: %+v", balances)
	}
}

func TestExact(t *testing.T) {
	w := newWorld(t)
	parent := w.finished("align")
	replay := w.spec("again")
	replay.Source = &schemas.SourceSpec{Run: "align", From: "scored"}
	for i := range uint32(2) {
		w.policy(replay, i)
	}
	if _, err := Exact(t.Context(), w.Session, replay); !errors.Is(err, checkpoints.ErrNoCheckpoint) {
		t.Errorf("policy 2 is not made yet: %v", err)
	}
	w.policy(replay, 2)
	same, err := Exact(t.Context(), w.Session, replay)
	if err != nil || len(same) != 2 || same[1].Policy != 2 || same[1].Source != parent.Run || same[0].Weights == same[1].Weights {
		t.Errorf("%+v, %v", same, err)
	}
	other := w.spec("other")
	other.Source = replay.Source
	w.policy(other, 0)
	_, err = w.Checkpoints.Commit(t.Context(), "other", checkpoints.Draft{
		Kind: checkpoints.Policy, Iteration: 1, Files: []checkpoints.Source{checkpoints.FromBytes("model.safetensors", []byte("other weights"))},
	})
	w.must(err)
	if _, err := Exact(t.Context(), w.Session, other); !errors.Is(err, ErrDiffers) || !strings.Contains(err.Error(), "policy 1, model.safetensors") {
		t.Errorf("other weights: %v", err)
	}
}
