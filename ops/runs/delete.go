package runs

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/ledger"
	"github.com/ldalign/ldalign/trainer/lineage"
)

// Size is the amount of data that the server and the store hold for a run.
type Size struct {
	Run string `json:"run"`
	// Messages are the numbers of messages, by kind.
	Messages    map[schemas.Kind]uint64 `json:"messages"`
	Checkpoints int                     `json:"checkpoints"`
	// Objects is the number of files in the store, and Bytes their total size.
	Objects int   `json:"objects"`
	Bytes   int64 `json:"bytes"`
	// Deleted reports whether the run has been deleted.
	Deleted bool `json:"deleted"`
}

// SizeOf counts the messages and files of a run. It returns ErrNoSuchRun if there are none.
func SizeOf(ctx context.Context, s *Session, run string) (Size, error) {
	size := Size{Run: run, Messages: map[schemas.Kind]uint64{}}
	sizes, err := ledger.SizeOf(ctx, s.Streams, run)
	if err != nil {
		return size, err
	}
	for _, one := range sizes {
		size.Messages[one.Kind] = one.Messages
	}
	if size.Checkpoints, size.Objects, size.Bytes, err = s.Checkpoints.Size(ctx, run); err != nil {
		return size, err
	}
	if len(sizes) == 0 && size.Objects == 0 {
		return size, noSuchRun(run)
	}
	return size, nil
}

// Delete deletes a run: its messages, its checkpoints and its reports. It returns an error if a process works on the run, or if
// another run names it. With dry it only returns the size. An interrupted Delete can be repeated.
func Delete(ctx context.Context, s *Session, run string, dry bool) (Size, error) {
	size, err := SizeOf(ctx, s, run)
	if err != nil {
		return size, err
	}
	if err := unnamed(ctx, s, run); err != nil {
		return size, err
	}
	if err := s.Streams.Idle(ctx, run); err != nil || dry {
		return size, err
	}
	err = holding(ctx, s, run, func() error {
		// checkpoints first: if this is interrupted, the run is still declared, and the same command can delete the rest
		if err := s.Checkpoints.DeleteRun(ctx, run); err != nil {
			return err
		}
		if err := os.RemoveAll(s.ReportDir(run)); err != nil {
			return fmt.Errorf("delete the reports: %w", err)
		}
		return s.Streams.DeleteRun(ctx, run)
	})
	size.Deleted = err == nil
	return size, err
}

// unnamed returns an error if another run needs this one.
func unnamed(ctx context.Context, s *Session, run string) error {
	names, err := s.Streams.Runs(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		spec, err := lineage.Spec(ctx, s.Streams, name)
		if errors.Is(err, streams.ErrNotFound) || name == run {
			continue
		}
		if err != nil {
			return err
		}
		if key := namedAs(spec, run); key != "" {
			return fmt.Errorf("run %s needs run %s as its %s: delete run %s first", name, run, key, name)
		}
	}
	return nil
}

// namedAs returns the key with which a spec names a run; empty if it does not name it.
func namedAs(spec schemas.Spec, run string) string {
	if spec.Source != nil && spec.Source.Run == run {
		return "source.run"
	}
	for _, from := range []struct{ key, value string }{
		{"model.from", spec.Model.From}, {"guide.from", spec.Guide.From}, {"evaluation.guide", spec.Evaluation.Guide},
	} {
		if ref, named := schemas.FromRun(from.value); named && ref.Run == run {
			return from.key
		}
	}
	return ""
}
