package derive

import (
	"fmt"

	"github.com/ldalign/ldalign/schemas"
)

// Restore asks for the run of a backup where no run of its name is.
type Restore struct {
	// As is another name for it; empty for its own.
	As string
}

// Needs says which facts Plan needs.
func (r Restore) Needs(saved schemas.Spec) Needs { return Needs{Runs: []string{r.name(saved)}} }

// Plan gives the spec of the restored run: the saved one, under its name or another.
func (r Restore) Plan(saved schemas.Spec, facts Facts) (schemas.Spec, error) {
	spec := saved.Clone()
	spec.Run = r.name(saved)
	if err := validName(spec.Run); err != nil {
		return spec, err
	}
	if _, declared := facts.Declared[spec.Run]; declared {
		return spec, fmt.Errorf("run %s is there already: `ldalign runs delete %s` removes it, --as NAME makes a copy",
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
