package runs

import (
	"context"
	"errors"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
)

// Results returns a run's evaluations by iteration; the last one counts if a checkpoint has several.
func (s *Session) Results(ctx context.Context, run string) (map[uint32]*events.Result, error) {
	out := map[uint32]*events.Result{}
	err := s.Streams.Read(ctx, schemas.Results, run, streams.AllIterations, 0, func(r streams.Received) error {
		if result, ok := r.Message.(*events.Result); ok && result.GetStep() == 0 {
			out[result.GetIteration()] = result
		}
		return nil
	})
	return out, err
}

// ExpectedResults returns how many policies of a run are to be evaluated.
func ExpectedResults(spec schemas.Spec) int {
	if spec.Data.Eval == "" {
		return 0
	}
	return spec.Iterations + 1 - max(spec.Evaluation.First, spec.FirstIteration())
}

// Complete reports whether a run has all its policies and results. It is false for a run that was declared with another spec.
func (s *Session) Complete(ctx context.Context, spec schemas.Spec) (bool, error) {
	last, err := s.Checkpoints.Policy(ctx, spec.Run, uint32(spec.Iterations))
	if errors.Is(err, checkpoints.ErrNoCheckpoint) {
		return false, nil
	}
	if err != nil || last.SpecDigest != spec.Digest() {
		return false, err
	}
	have, err := s.Results(ctx, spec.Run)
	return len(have) >= ExpectedResults(spec), err
}
