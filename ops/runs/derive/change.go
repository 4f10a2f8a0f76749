package derive

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ldalign/ldalign/schemas"
)

// ErrRequest reports a wrong request, as opposed to something that the parent's log or store lacks.
var ErrRequest = errors.New("wrong usage")

// changed returns the parent's spec under another name, with keys set.
func changed(parent schemas.Spec, as string, assignments []string) (schemas.Spec, error) {
	child := parent.Clone()
	child.Run, child.Source = as, nil
	if err := validName(as); err != nil {
		return child, err
	}
	if as == parent.Run {
		return child, fmt.Errorf("%w: give the new run a name other than %s", ErrRequest, as)
	}
	for _, s := range assignments {
		if err := schemas.Set(&child, s); err != nil {
			return child, err
		}
	}
	if child.Run != as {
		return child, fmt.Errorf("%w: name the new run with --as, not with --set run", ErrRequest)
	}
	return child, nil
}

func validName(run string) error {
	if !schemas.ValidRun(run) {
		return fmt.Errorf("%w: %q cannot be a run's name: use at most 63 of lower-case letters, digits, - and _", ErrRequest, run)
	}
	return nil
}

// assigns reports whether one of the assignments sets a key.
func assigns(assignments []string, key string) bool {
	return slices.ContainsFunc(assignments, func(s string) bool { return strings.HasPrefix(strings.TrimSpace(s), key+"=") })
}

// changesModel reports whether the differences make the run start from another model.
func changesModel(differences []schemas.Difference) bool {
	return slices.ContainsFunc(differences, func(d schemas.Difference) bool {
		return d.Key == "model.from" || strings.HasPrefix(d.Key, "model.scratch.")
	})
}

// changesGuide reports whether the differences change the guide.
func changesGuide(differences []schemas.Difference) bool {
	return slices.ContainsFunc(differences, func(d schemas.Difference) bool { return strings.HasPrefix(d.Key, "guide.") })
}

// newest returns the value with which a key of a spec names the parent's newest checkpoint.
func newest(parent schemas.Spec) string {
	return schemas.PolicyRef{Run: parent.Run, Iteration: Newest}.Reference()
}

// finished fills in the keys that follow from others, and validates the spec.
func finished(spec schemas.Spec) (schemas.Spec, error) {
	spec = schemas.Resolve(spec, spec.Compute.Threads)
	return spec, spec.Validate()
}
