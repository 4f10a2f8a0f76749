package runs

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/ldalign/ldalign/ops/runs/derive"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/ledger"
)

// RestoreProgress has the functions that Restore calls after each message and each file.
type RestoreProgress struct{ Message, File func() }

// Restore restores the run of a backup, under its own name or another one, and returns its spec. It returns an error if a run of
// that name is declared. Everything is verified before it is stored. An interrupted Restore can be repeated.
func Restore(
	ctx context.Context, s *Session, dir string, request derive.Restore, on RestoreProgress,
) (spec schemas.Spec, err error) {
	saved, err := ReadBackup(dir)
	if err != nil {
		return spec, err
	}
	if spec, err = saved.Declared(); err != nil {
		return spec, err
	}
	facts, err := Facts(ctx, s, spec, request.Needs(spec))
	if err != nil {
		return spec, err
	}
	if spec, err = request.Plan(spec, facts); err != nil {
		return spec, err
	}
	if request.As == "" {
		return spec, restore(ctx, s, spec, dir, on)
	}
	renamed, err := os.MkdirTemp("", "ldalign-restore-")
	if err != nil {
		return spec, fmt.Errorf("restore: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(renamed)) }()
	if err := renameBackup(dir, renamed, spec.Run); err != nil {
		return spec, err
	}
	return spec, restore(ctx, s, spec, renamed, on)
}

// restore restores the run of a backup under its own name.
func restore(ctx context.Context, s *Session, spec schemas.Spec, dir string, on RestoreProgress) error {
	saved, err := ReadBackup(dir)
	if err != nil {
		return err
	}
	return holding(ctx, s, saved.Run, func() error {
		if err := s.Declare(ctx, spec); err != nil {
			return err
		}
		for _, stream := range saved.Streams {
			if stream.Kind == streams.LogOf(schemas.Control) { // the declaration comes last: a declared run is complete
				if err := restoreRest(ctx, s, dir, saved, on.File); err != nil {
					return err
				}
			}
			if err := loadStream(ctx, s, dir, stream, saved.Run, on.Message); err != nil {
				return err
			}
		}
		return nil
	})
}

// restoreRest restores what comes after the data messages and before the declaration: checkpoints and the positions of the
// stages.
func restoreRest(ctx context.Context, s *Session, dir string, saved Saved, onFile func()) error {
	if err := s.Checkpoints.Restore(ctx, saved.Run, dir, func(int64) { onFile() }); err != nil {
		return err
	}
	for _, p := range saved.Progress {
		if err := s.Streams.SettleUpTo(ctx, p.Stage, p.Kind, saved.Run, p.Settled); err != nil {
			return err
		}
	}
	return nil
}

// loadStream verifies a file of messages and restores it.
func loadStream(
	ctx context.Context, s *Session, dir string, saved SavedStream, run string, onMessage func(),
) error {
	f, err := openSaved(dir, saved)
	if err != nil {
		return err
	}
	defer f.Close()
	return ledger.Load(ctx, s.Streams, saved.Kind, run, f, onMessage)
}
