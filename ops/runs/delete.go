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

// Size is what the server and the store hold of a run.
type Size struct {
	Run string `json:"run"`
	// Messages are by kind.
	Messages    map[schemas.Kind]uint64 `json:"messages"`
	Checkpoints int                     `json:"checkpoints"`
	// Objects are all files in the store, of Bytes together.
	Objects int   `json:"objects"`
	Bytes   int64 `json:"bytes"`
	// Deleted tells that they are gone now.
	Deleted bool `json:"deleted"`
}

// SizeOf counts what there is of a run; ErrNoSuchRun when there is nothing.
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

// Delete deletes everything of a run: its messages, its checkpoints, its reports. It refuses a run that anybody works on, and one
// that another run names. With dry it only says what it would delete. Interrupted, it can be repeated.
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
		// the checkpoints first: a run which is declared but has none can be deleted by the same command after an interruption
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

// unnamed is nil, or says which other run needs this one.
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
			return fmt.Errorf("run %s names run %s as its %s: delete that one first", name, run, key)
		}
	}
	return nil
}

// namedAs is the key by which a spec names a run; empty for none.
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
