package runs

import (
	"context"
	"errors"
	"time"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer/retention"
)

// Prune carries out a retention while nobody trains the run. by says for whom. With dry it only says what it would remove.
func Prune(
	ctx context.Context, s *Session, spec schemas.Spec, keep schemas.RetentionSpec, by string, dry bool,
) (got retention.Removed, err error) {
	err = holding(ctx, s, spec.Run, func() (err error) {
		got, err = retention.Apply(ctx, s.Streams, s.Checkpoints, spec, keep, by, dry)
		return err
	})
	return got, err
}

// Unnamed are the blobs of a run that no checkpoint names: what a process left that died before it wrote the manifest.
type Unnamed struct {
	Run string `json:"run"`
	checkpoints.Swept
	Removed bool `json:"removed"`
	// Held names the process that works on the run, which was therefore passed over; empty for none.
	Held string `json:"held,omitempty"`
}

// RemoveUnnamed removes the unnamed blobs of some runs, those that are older than grace; of all runs for none. It passes over
// a run that somebody works on. With dry it only counts.
func RemoveUnnamed(ctx context.Context, s *Session, names []string, grace time.Duration, dry bool) ([]Unnamed, error) {
	if len(names) == 0 {
		var err error
		if names, err = s.Checkpoints.Runs(ctx); err != nil {
			return nil, err
		}
	}
	all := make([]Unnamed, len(names))
	for i, run := range names {
		u := Unnamed{Run: run, Removed: !dry}
		err := holding(ctx, s, run, func() (err error) {
			u.Swept, err = s.Checkpoints.Sweep(ctx, run, grace, dry)
			return err
		})
		if held := new(streams.ErrHeld); errors.As(err, &held) {
			u.Held, u.Removed = held.Holder, false
		} else if err != nil {
			return nil, err
		}
		all[i] = u
	}
	return all, nil
}
