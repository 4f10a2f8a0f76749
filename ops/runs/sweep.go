package runs

import (
	"context"
	"time"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/ops/runs/derive"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/ledger"
	"github.com/ldalign/ldalign/trainer/lineage"
	"github.com/ldalign/ldalign/trainer/objective"
	"github.com/ldalign/ldalign/trainer/schedule"
)

// SweepRun is one run of a sweep, with an estimate of its work.
type SweepRun struct {
	Run string `json:"run"`
	// Set is the run's combination of assignments.
	Set []string `json:"set"`
	// Pairs is the number of pairs that the run trains on, in Steps optimizer steps.
	Pairs int `json:"pairs"`
	Steps int `json:"steps"`
	// Seconds is how long the parent took to train on the same pairs, scaled to the run's epochs; 0 if the log does not say.
	Seconds float64 `json:"seconds,omitempty"`
	// Done reports whether the run is complete.
	Done bool         `json:"done"`
	Spec schemas.Spec `json:"-"`
}

// PlanSweep plans the runs of a sweep over one parent, and estimates the work of each.
func PlanSweep(ctx context.Context, s *Session, parent schemas.Spec, request derive.Sweep) ([]SweepRun, error) {
	needs, err := request.Needs(parent)
	if err != nil {
		return nil, err
	}
	facts, err := Facts(ctx, s, parent, needs)
	if err != nil {
		return nil, err
	}
	members, err := request.Plan(parent, facts)
	if err != nil {
		return nil, err
	}
	iterations := map[int]trained{} // members share them
	sweep := make([]SweepRun, len(members))
	for k, m := range members {
		run := SweepRun{Run: m.Spec.Run, Set: m.Set, Spec: m.Spec}
		given, _ := lineage.Given(m.Spec)
		var took time.Duration
		for i := m.Spec.FirstIteration(); i < m.Spec.Iterations; i++ {
			one, known := iterations[i]
			if !known {
				if one, err = trainedIn(ctx, s, parent, given, uint32(i)); err != nil {
					return nil, err
				}
				iterations[i] = one
			}
			run.Pairs += one.pairs
			run.Steps += schedule.Steps(one.pairs, m.Spec.Training.Batch, m.Spec.Training.Epochs)
			took += one.took
		}
		if run.Done, err = s.Complete(ctx, m.Spec); err != nil {
			return nil, err
		}
		run.Seconds = (took * time.Duration(m.Spec.Training.Epochs) / time.Duration(parent.Training.Epochs)).Seconds()
		sweep[k] = run
	}
	return sweep, nil
}

// trained says how many pairs an iteration has, and how long a run trained on them.
type trained struct {
	pairs int
	took  time.Duration
}

func trainedIn(
	ctx context.Context, s *Session, parent schemas.Spec, given streams.Source, iteration uint32,
) (t trained, err error) {
	if t.pairs, err = ledger.CountIn(ctx, s.Streams, given, iteration); err != nil {
		return t, err
	}
	t.took, err = trainingTook(ctx, s, parent, iteration)
	return t, err
}

// trainingTook returns the time from an iteration's last pair to its policy, by the server's clock; 0 if the log does not have
// both. It includes interruptions of the run.
func trainingTook(ctx context.Context, s *Session, spec schemas.Spec, iteration uint32) (time.Duration, error) {
	feed, _ := lineage.Feed(spec, objective.TrainsFrom(spec.Objective.Kind))
	var last, made time.Time
	seen := map[string]bool{}
	err := s.Streams.Read(ctx, feed.Kind, feed.Run, int(iteration), feed.First, func(r streams.Received) error {
		if id := r.Message.ID(); !seen[id] { // skip copies of a message
			seen[id], last = true, r.Time
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	err = s.Streams.Read(ctx, schemas.Checkpoints, spec.Run, int(iteration)+1, 0, func(r streams.Received) error {
		if c, ok := r.Message.(*events.Checkpoint); ok && c.GetKind() == string(checkpoints.Policy) {
			made = r.Time
		}
		return nil
	})
	if err != nil || last.IsZero() || made.Before(last) {
		return 0, err
	}
	return made.Sub(last), nil
}
