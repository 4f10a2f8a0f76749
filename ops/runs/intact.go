package runs

import (
	"context"
	"errors"
	"fmt"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer/lineage"
)

// Intact returns an error if only one of the server and the store still has data of a run. A trainer would start such a run from
// the beginning, and the remaining data would not match what it makes.
func (s *Session) Intact(ctx context.Context, run string) error {
	manifests, err := s.Checkpoints.List(ctx, run)
	if err != nil {
		return err
	}
	_, err = lineage.Spec(ctx, s.Streams, run)
	declared := err == nil
	if err != nil && !errors.Is(err, streams.ErrNotFound) {
		return err
	}
	announced, err := s.Announced(ctx, run)
	if err != nil {
		return err
	}
	const remedy = "restore it from a copy (`ldalign restore` for a backup), or remove the rest with `ldalign runs delete`"
	if announced > 0 && len(manifests) == 0 {
		return fmt.Errorf("the checkpoint store has nothing of run %s, but the run's log names %d checkpoints: %s",
			run, announced, remedy)
	}
	// The first policy is committed before the run is declared.
	if !declared && (len(manifests) > 1 || len(manifests) == 1 && manifests[0].Kind != checkpoints.Policy) {
		return fmt.Errorf("the streams have nothing of run %s, but the store has %d of its checkpoints: %s",
			run, len(manifests), remedy)
	}
	return nil
}

// Announced returns the number of checkpoints that the run's log names.
func (s *Session) Announced(ctx context.Context, run string) (count int, err error) {
	err = s.Streams.Read(ctx, schemas.Checkpoints, run, streams.AllIterations, 0, func(streams.Received) error {
		count++
		return nil
	})
	if errors.Is(err, streams.ErrNotFound) {
		return 0, nil
	}
	return count, err
}
