package task

import (
	"fmt"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/trainer/objective"
)

// Shared is a task without its model, which is sent to the processes that compute it together.
type Shared struct {
	Objective objective.Preference
	Compute   models.Compute
	// Pairs or Rows are the examples.
	Pairs []Pair
	Rows  []models.Sequence
}

// Share returns a task without its model. The guide's task cannot be shared and gives an error.
func Share(t Task) (Shared, error) {
	switch t := t.(type) {
	case *Pairs:
		return Shared{Objective: t.Objective, Compute: t.Compute, Pairs: t.Pairs}, nil
	case *Sequences:
		return Shared{Compute: t.Compute, Rows: t.Rows}, nil
	default:
		return Shared{}, fmt.Errorf("a task of type %T cannot be shared among ranks", t)
	}
}

// On returns the task with a model.
func (t Shared) On(model *models.Model) Task {
	if t.Pairs == nil {
		return &Sequences{Model: model, Rows: t.Rows, Compute: t.Compute}
	}
	return &Pairs{Model: model, Pairs: t.Pairs, Objective: t.Objective, Compute: t.Compute}
}
