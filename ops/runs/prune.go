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

// Prune applies a retention to a run, and returns what it removed. by says who asked for it. It returns *streams.ErrHeld if a
// trainer works on the run. With dry it removes nothing, and returns what it would remove.
func Prune(
	ctx context.Context, s *Session, spec schemas.Spec, keep schemas.RetentionSpec, by string, dry bool,
) (got retention.Removed, err error) {
	err = holding(ctx, s, spec.Run, func() (err error) {
		got, err = retention.Apply(ctx, s.Streams, s.Checkpoints, spec, keep, by, dry)
		return err
	})
	return got, err
}

// Unnamed describes the blobs of a run that no checkpoint names. A process that dies before it writes a manifest leaves such
// blobs.
type Unnamed struct {
	Run string `json:"run"`
	checkpoints.Swept
	Removed bool `json:"removed"`
	// Held names the process that works on the run. The run was then skipped. Empty for none.
	Held string `json:"held,omitempty"`
}

// RemoveUnnamed removes the blobs of the named runs (of all runs, if names is empty) that no checkpoint names and that are older
// than grace. It skips runs on which a process works. With dry it only counts.
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
