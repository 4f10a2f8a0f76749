package derive

import (
	"fmt"

	"github.com/ldalign/ldalign/schemas"
)

// Restore asks for the run of a backup, in a place that has no run of that name.
type Restore struct {
	// As is a new name for the run; empty for its own.
	As string
}

// Needs returns the facts that Plan needs.
func (r Restore) Needs(saved schemas.Spec) Needs { return Needs{Runs: []string{r.name(saved)}} }

// Plan returns the spec of the restored run: the saved one, under its own name or As.
func (r Restore) Plan(saved schemas.Spec, facts Facts) (schemas.Spec, error) {
	spec := saved.Clone()
	spec.Run = r.name(saved)
	if err := validName(spec.Run); err != nil {
		return spec, err
	}
	if _, declared := facts.Declared[spec.Run]; declared {
		return spec, fmt.Errorf("run %s already exists: delete it with `ldalign runs delete %s`, or restore a copy with --as NAME",
			spec.Run, spec.Run)
	}
	return spec, nil
}

func (r Restore) name(saved schemas.Spec) string {
	if r.As == "" {
		return saved.Run
	}
	return r.As
}
