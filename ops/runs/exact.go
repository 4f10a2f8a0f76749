package runs

import (
	"context"
	"errors"
	"fmt"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/curves"
)

// ErrDiffers reports that the weights or the step records of a replay differ from its source's.
var ErrDiffers = errors.New("the replay has other weights than its source")

// Same is a policy of a replay that equals its source's bit for bit.
type Same struct {
	Run    string `json:"run"`
	Source string `json:"source"`
	Policy int    `json:"exact_policy"`
	// Weights and Records are the sha256 of the policy's weights and of its step records.
	Weights string `json:"weights"`
	Records string `json:"records"`
}

// Exact compares the policies of a replay with those of its source, and returns those that are equal. If one differs, it returns
// the equal ones before it, and an ErrDiffers that names it.
func Exact(ctx context.Context, s *Session, spec schemas.Spec) ([]Same, error) {
	var all []Same
	for i := spec.Source.Iteration + 1; i <= spec.Iterations; i++ {
		made, err := s.Checkpoints.Policy(ctx, spec.Run, uint32(i))
		if err != nil {
			return all, err
		}
		was, err := s.Checkpoints.Policy(ctx, spec.Source.Run, uint32(i))
		if err != nil {
			return all, fmt.Errorf("cannot compare policy %d: %w", i, err)
		}
		for _, name := range []string{checkpoints.WeightsFile, curves.File} {
			if a, b := sha(made, name), sha(was, name); a != b {
				return all, fmt.Errorf("%w: policy %d, %s: %.12s in run %s, %.12s in run %s",
					ErrDiffers, i, name, a, spec.Run, b, spec.Source.Run)
			}
		}
		all = append(all, Same{spec.Run, spec.Source.Run, i, sha(made, checkpoints.WeightsFile), sha(made, curves.File)})
	}
	return all, nil
}

func sha(m checkpoints.Manifest, name string) string {
	f, _ := m.File(name)
	return f.SHA256
}
