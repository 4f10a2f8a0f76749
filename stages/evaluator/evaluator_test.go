package evaluator_test

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/dataset"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/stages/evaluator"
	"github.com/ldalign/ldalign/stages/evaluator/result"
	"github.com/ldalign/ldalign/stages/stagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func heldOut(t *testing.T, n int) []dataset.Record {
	t.Helper()
	set, err := dataset.Load("builtin:demo/heldout", dataset.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return set.Records[:n]
}

func open(t *testing.T, f *stagetest.Fixture, records []dataset.Record) *evaluator.Stage {
	t.Helper()
	s := evaluator.New(f.Spec, records, f.Checkpoints, f.Engine)
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// evaluate is the result of one policy with its details.
func evaluate(t *testing.T, f *stagetest.Fixture, s *evaluator.Stage, m checkpoints.Manifest) (*events.Result, []result.Detail) {
	t.Helper()
	out, errs := s.Process(t.Context(), []*events.Checkpoint{checkpoints.Event(m)})
	if errs[0] != nil {
		t.Fatal(errs[0])
	}
	data, err := f.Checkpoints.ReadBlob(t.Context(), f.Spec.Run, out[0].GetDetails())
	if err != nil {
		t.Fatal(err)
	}
	details, err := result.Read(data)
	if err != nil {
		t.Fatal(err)
	}
	return out[0], details
}

func value(t *testing.T, r *events.Result, name string) float64 {
	t.Helper()
	for _, m := range r.GetMetrics() {
		if m.GetName() == name {
			return m.GetValue()
		}
	}
	t.Errorf("there is no metric %s", name)
	return math.NaN()
}

func TestEvaluate(t *testing.T) {
	f := stagetest.New(t, func(s *schemas.Spec) { s.Evaluation.Limit = 5 })
	manifest := f.Policy(1, 1)
	f.Guide(7)
	records := heldOut(t, 8)
	evaluated, details := evaluate(t, f, open(t, f, records), manifest)
	if evaluated.GetRun() != "r" || evaluated.GetIteration() != 1 || evaluated.GetCheckpoint() != manifest.Digest || !(evaluated.GetSeconds() > 0) {
		t.Errorf("result %v", evaluated)
	}
	if len(details) != 5 {
		t.Fatalf("%d details, want evaluation.limit", len(details))
	}
	var graded, distances float64
	differ := false
	for i, d := range details {
		if d.ID != records[i].ID || d.Prompt != records[i].Prompt || d.Response != records[i].Response || len(d.Samples) != 2 {
			t.Errorf("detail %d: %+v, want 2 samples of %+v", i, d, records[i])
		}
		if d.Greedy.Distance != nil {
			t.Errorf("detail %d: the greedy answer has a distance", i)
		}
		for _, a := range d.Samples {
			exact, score := dataset.Score(records[i], a.Text)
			if a.Exact != exact || a.Graded != score || a.Tokens < 1 || a.Tokens > 12 {
				t.Errorf("detail %d: %+v, want exact %v and graded %v", i, a, exact, score)
			}
			if a.Distance == nil || !(*a.Distance > 0) {
				t.Fatalf("detail %d: a sample without distance", i)
			}
			graded, distances = graded+score/10, distances+*a.Distance/10
		}
		differ = differ || d.Samples[0].Text != d.Samples[1].Text
	}
	if !differ {
		t.Error("both samples are the same for every prompt")
	}
	if got := value(t, evaluated, result.SampledGraded); math.Abs(got-graded) > 1e-12 {
		t.Errorf("sampled_graded %v, want %v", got, graded)
	}
	if got := value(t, evaluated, result.DistanceMean); math.Abs(got-distances) > 1e-12 {
		t.Errorf("distance_mean %v, want %v", got, distances)
	}
	// another process finds the same, so a redelivered event changes nothing
	again, _ := evaluate(t, f, open(t, f, records), manifest)
	if again.GetDetails() != evaluated.GetDetails() {
		t.Error("evaluated twice, the details differ")
	}
	// and so does one that has had another policy in memory
	other := f.Policy(2, 2)
	stage := open(t, f, records)
	if r, _ := evaluate(t, f, stage, other); r.GetDetails() == evaluated.GetDetails() {
		t.Error("two policies have the same details")
	}
	if r, _ := evaluate(t, f, stage, manifest); r.GetDetails() != evaluated.GetDetails() {
		t.Error("after another policy the details differ")
	}
}

// TestWhatIsMeasured: policies from evaluation.first on, and nothing else.
func TestWhatIsMeasured(t *testing.T) {
	f := stagetest.New(t, func(s *schemas.Spec) {
		s.Objective.Kind, s.Evaluation.First, s.Evaluation.Samples = "spin", 1, 1
	})
	var in []*events.Checkpoint
	for _, m := range []checkpoints.Manifest{f.Policy(0, 1), f.Guide(5), f.Policy(1, 2)} {
		in = append(in, checkpoints.Event(m))
	}
	out, errs := open(t, f, heldOut(t, 2)).Process(t.Context(), in)
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if out[0] != nil || out[1] != nil || out[2].GetIteration() != 1 {
		t.Errorf("results %v, want one of policy 1 alone", out)
	}
	for _, m := range out[2].GetMetrics() {
		if m.GetName() == result.DistanceMean {
			t.Error("there is a mean distance without a guide")
		}
	}
}

// TestGuideOfAnotherRun: a run without a guide is measured by the one that its spec names.
func TestGuideOfAnotherRun(t *testing.T) {
	f := stagetest.New(t)
	f.Guide(7)
	f.Spec.Run, f.Spec.Objective.Kind, f.Spec.Evaluation.Guide = "spin", "spin", "run:r"
	evaluated, _ := evaluate(t, f, open(t, f, heldOut(t, 2)), f.Policy(0, 1))
	if d := value(t, evaluated, result.DistanceMean); !(d > 0) {
		t.Errorf("mean distance %v", d)
	}
}

// TestRefusedPromptsAreCounted: a held-out prompt that is too long must not keep the others from being measured.
func TestRefusedPromptsAreCounted(t *testing.T) {
	f := stagetest.New(t, func(s *schemas.Spec) {
		s.Objective.Kind, s.Data.Overlong, s.Data.MaxResponseTokens = "spin", "reject", 32
	})
	records := heldOut(t, 4)
	records[1].Prompt = strings.Repeat("many words ", 50)
	evaluated, details := evaluate(t, f, open(t, f, records), f.Policy(0, 1))
	var ids []string
	for _, d := range details {
		ids = append(ids, d.ID)
	}
	if diff := cmp.Diff([]string{records[0].ID, records[2].ID, records[3].ID}, ids); diff != "" {
		t.Errorf("measured (-want +got):\n%s", diff)
	}
	if got := value(t, evaluated, result.Refused); got != 1 {
		t.Errorf("%v refused, want 1", got)
	}
}

func TestScorers(t *testing.T) {
	for _, scorer := range []string{"none", "exact"} {
		f := stagetest.New(t, func(s *schemas.Spec) { s.Objective.Kind, s.Evaluation.Scorer = "spin", scorer })
		records := heldOut(t, 2)
		_, details := evaluate(t, f, open(t, f, records), f.Policy(0, 1))
		records[0].Response = "\n" + details[0].Greedy.Text + " " // the answer, but for white space
		if details[0].Greedy.Text == "" {
			t.Fatal("the greedy answer is empty: the test shows nothing")
		}
		_, details = evaluate(t, f, open(t, f, records), f.Policy(1, 1))
		if got := details[0].Greedy; got.Exact != (scorer == "exact") || got.Graded != 0 || details[1].Greedy.Exact {
			t.Errorf("%s: %+v and %+v", scorer, got, details[1].Greedy)
		}
	}
}

func TestMissingCheckpointIsNamed(t *testing.T) {
	f := stagetest.New(t)
	digest := strings.Repeat("ab", 32)
	_, errs := open(t, f, heldOut(t, 1)).Process(t.Context(), []*events.Checkpoint{{Run: "r", Kind: "policy", Digest: digest}})
	if !errors.Is(errs[0], checkpoints.ErrNoCheckpoint) || !strings.Contains(errs[0].Error(), digest[:12]) {
		t.Errorf("got %v, want an error that names the checkpoint", errs[0])
	}
}

// TestStoreAway: a result whose details cannot be stored is no fault of the checkpoint: it waits for the store.
func TestStoreAway(t *testing.T) {
	f := stagetest.New(t, func(s *schemas.Spec) { s.Objective.Kind = "spin" }) // without a guide
	m := f.Policy(0, 1)
	details := filepath.Join(f.Dir, "runs", f.Spec.Run, "details")
	if err := os.WriteFile(details, nil, 0o600); err != nil { // where the folder would be
		t.Fatal(err)
	}
	s := open(t, f, heldOut(t, 2))
	in := []*events.Checkpoint{checkpoints.Event(m)}
	var unable *schemas.Unavailable
	if _, errs := s.Process(t.Context(), in); !errors.As(errs[0], &unable) || unable.Permanent {
		t.Errorf("without the store: %v", errs[0])
	}
	if err := errors.Join(os.Remove(details), os.Mkdir(details, 0o700)); err != nil {
		t.Fatal(err)
	}
	if out, errs := s.Process(t.Context(), in); errs[0] != nil || out[0].GetDetails() == "" {
		t.Errorf("with the store again: %v", errs[0])
	}
}
