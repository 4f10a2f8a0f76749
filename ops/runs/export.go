package runs

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/ops/runs/derive"
	"github.com/ldalign/ldalign/schemas"
)

// Export writes a policy of a run, or its newest guide, as a folder of files. It returns derive.ErrRequest if the folder exists.
func Export(
	ctx context.Context, s *Session, ref schemas.PolicyRef, kind checkpoints.Kind, folder string,
) (checkpoints.Manifest, error) {
	if _, err := os.Stat(folder); !errors.Is(err, os.ErrNotExist) {
		return checkpoints.Manifest{}, fmt.Errorf("%w: %s exists; name a folder that does not", derive.ErrRequest, folder)
	}
	var m checkpoints.Manifest
	var err error
	if kind == checkpoints.Policy {
		m, err = s.Checkpoints.PolicyOf(ctx, ref)
	} else {
		m, err = s.Checkpoints.Latest(ctx, ref.Run, kind)
	}
	if err != nil {
		return m, err
	}
	return m, s.Checkpoints.Materialise(ctx, m, folder)
}
