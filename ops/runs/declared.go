package runs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ldalign/ldalign/schemas"
)

// Specs returns the specs of several runs.
func Specs(ctx context.Context, s *Session, names []string) ([]schemas.Spec, error) {
	specs := make([]schemas.Spec, len(names))
	for i, name := range names {
		var err error
		if specs[i], err = Spec(ctx, s, name); err != nil {
			return nil, err
		}
	}
	return specs, nil
}

// AwaitSpec waits until a run is declared, and returns its spec.
func AwaitSpec(ctx context.Context, s *Session, run string) (schemas.Spec, error) {
	if !schemas.ValidRun(run) {
		return schemas.Spec{}, fmt.Errorf("%w: run name %q: want lower-case letters, digits, - and _", ErrSettings, run)
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for told := false; ; {
		spec, err := Spec(ctx, s, run)
		if err == nil || !errors.Is(err, ErrNoSuchRun) {
			return spec, err
		}
		if !told {
			s.Log.Warn().Str("run", run).Msg("waiting for a trainer to declare the run")
			told = true
		}
		select {
		case <-ctx.Done():
			return spec, ctx.Err()
		case <-tick.C:
		}
	}
}
