package schemas_test

import (
	"testing"

	"github.com/ldalign/ldalign/schemas"
)

// TestAhead: the prompts ahead of the trainer are bounded unless the trainer waits for a whole iteration, and the bound is
// never less than the trainer needs to continue.
func TestAhead(t *testing.T) {
	spec := func(change func(*schemas.Spec)) schemas.Spec {
		s := schemas.Default()
		s.Run, s.Model.From, s.Data.Train = "r", "m", "f.jsonl"
		s.Objective.Normaliser, s.Training.Schedule, s.Training.Batch, s.Streams.MaxInFlight = "running", "streaming", 8, 100
		change(&s)
		return schemas.Resolve(s, 1)
	}
	for name, c := range map[string]struct {
		change        func(*schemas.Spec)
		first, second int
	}{
		"a guide of the first iteration": {func(*schemas.Spec) {}, 0, 100},
		"a guide of another run":         {func(s *schemas.Spec) { s.Guide.From = "run:other" }, 100, 100},
		"no guide":                       {func(s *schemas.Spec) { s.Objective.Kind, s.Objective.Normaliser = "spin", "per_iteration" }, 100, 100},
		"a great batch": {func(s *schemas.Spec) {
			s.Objective.Kind, s.Objective.Normaliser, s.Training.Batch = "spin", "per_iteration", 64
		}, 128, 128},
		"no bound":           {func(s *schemas.Spec) { s.Streams.MaxInFlight = 0 }, 0, 0},
		"the exact schedule": {func(s *schemas.Spec) { s.Training.Schedule = "exact" }, 0, 0},
		"a replay": {func(s *schemas.Spec) {
			s.Guide.From = "run:other"
			s.Source = &schemas.SourceSpec{Run: "other", From: "pairs", Policy: "x", First: 1, Last: 2, OffPolicy: "refuse"}
		}, 0, 0},
	} {
		s := spec(c.change)
		if err := s.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if s.MaxInFlight(0) != c.first || s.MaxInFlight(1) != c.second {
			t.Errorf("%s: %d in iteration 0 and %d in 1, want %d and %d", name, s.MaxInFlight(0), s.MaxInFlight(1), c.first, c.second)
		}
	}
	negative := spec(func(s *schemas.Spec) { s.Streams.MaxInFlight = -1 })
	if err := negative.Validate(); err == nil {
		t.Error("-1 is valid")
	}
}
