package runs

import (
	"context"
	"errors"
	"fmt"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer/lineage"
)

// ErrNoSuchRun reports that no run of that name is declared.
var ErrNoSuchRun = errors.New("no such run")

// Spec returns the spec with which a run was declared, or ErrNoSuchRun if it is not declared.
func Spec(ctx context.Context, s *Session, run string) (schemas.Spec, error) {
	spec, err := lineage.Spec(ctx, s.Streams, run)
	if errors.Is(err, streams.ErrNotFound) {
		return spec, noSuchRun(run)
	}
	return spec, err
}

func noSuchRun(run string) error {
	return fmt.Errorf("%w: %s (`ldalign runs` lists them)", ErrNoSuchRun, run)
}
