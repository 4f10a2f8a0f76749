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

// Intact returns an error when either the server or the store has lost everything of a run and the other has not. A trainer
// would begin such a run anew, and what is left would not fit what it makes.
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
	const remedy = "restore it from a copy (`ldalign restore` for a backup), or remove what is left by `ldalign runs delete`"
	if announced > 0 && len(manifests) == 0 {
		return fmt.Errorf("the checkpoint store has nothing of run %s, of which the log names %d checkpoints: %s",
			run, announced, remedy)
	}
	// The first policy is committed before the run is declared.
	if !declared && (len(manifests) > 1 || len(manifests) == 1 && manifests[0].Kind != checkpoints.Policy) {
		return fmt.Errorf("the streams have nothing of run %s, of which the store has %d checkpoints: %s", run, len(manifests), remedy)
	}
	return nil
}

// Announced is how many checkpoints the run's log names.
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
