package derive

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ldalign/ldalign/schemas"
)

// ErrRequest: the request itself is wrong, whatever the parent's log and store hold.
var ErrRequest = errors.New("wrong usage")

// changed is the parent's spec under another name, with keys set.
func changed(parent schemas.Spec, as string, assignments []string) (schemas.Spec, error) {
	child := parent.Clone()
	child.Run, child.Source = as, nil
	if err := validName(as); err != nil {
		return child, err
	}
	if as == parent.Run {
		return child, fmt.Errorf("%w: give the new run another name than %s", ErrRequest, as)
	}
	for _, s := range assignments {
		if err := schemas.Set(&child, s); err != nil {
			return child, err
		}
	}
	if child.Run != as {
		return child, fmt.Errorf("%w: the name of the new run is given by --as, not by --set run", ErrRequest)
	}
	return child, nil
}

func validName(run string) error {
	if !schemas.ValidRun(run) {
		return fmt.Errorf("%w: %q cannot be a run's name: use at most 63 of lower-case letters, digits, - and _", ErrRequest, run)
	}
	return nil
}

// assigns tells whether a key is among assignments.
func assigns(assignments []string, key string) bool {
	return slices.ContainsFunc(assignments, func(s string) bool { return strings.HasPrefix(strings.TrimSpace(s), key+"=") })
}

// changesModel tells whether the differences give the run another model to start from.
func changesModel(differences []schemas.Difference) bool {
	return slices.ContainsFunc(differences, func(d schemas.Difference) bool {
		return d.Key == "model.from" || strings.HasPrefix(d.Key, "model.scratch.")
	})
}

// changesGuide tells whether the differences are about the guide.
func changesGuide(differences []schemas.Difference) bool {
	return slices.ContainsFunc(differences, func(d schemas.Difference) bool { return strings.HasPrefix(d.Key, "guide.") })
}

// newest is how a key of a spec names the parent, and of its checkpoints the newest.
func newest(parent schemas.Spec) string {
	return schemas.PolicyRef{Run: parent.Run, Iteration: Newest}.Reference()
}

// finished is a spec with what follows from its keys filled in, and checked.
func finished(spec schemas.Spec) (schemas.Spec, error) {
	spec = schemas.Resolve(spec, spec.Compute.Threads)
	return spec, spec.Validate()
}
