package derive

import (
	"fmt"

	"github.com/ldalign/ldalign/schemas"
)

// Fork asks for a run that starts from a policy of the parent, with some keys changed.
type Fork struct {
	// Policy is the policy's iteration, or Newest.
	Policy int
	// As is the name of the new run; empty for PARENT-fork-ITERATION.
	As string
	// Set are assignments, as schemas.Set takes them.
	Set []string
}

// Needs returns the facts that Plan needs.
func (f Fork) Needs() Needs { return Needs{Policies: []int{f.Policy}, Guide: true} }

// Plan returns the spec of the fork. It makes as many iterations as the parent had left after the policy, if any, and keeps the
// parent's guide unless a key of the guide is changed.
func (f Fork) Plan(parent schemas.Spec, facts Facts) (schemas.Spec, error) {
	policy := facts.Policies[f.Policy]
	if policy.Missing != nil {
		return schemas.Spec{}, policy.Missing
	}
	if f.As == "" {
		f.As = fmt.Sprintf("%s-fork-%d", parent.Run, policy.Iteration)
	}
	child, err := changed(parent, f.As, f.Set)
	if err != nil {
		return child, err
	}
	differences := schemas.Differences(parent, child)
	if changesModel(differences) {
		return child, fmt.Errorf("%w: a fork starts from the policy that it names, not from another model", ErrRequest)
	}
	child.Model.From, child.Model.Scratch = schemas.PolicyRef{Run: parent.Run, Iteration: policy.Iteration}.Reference(), nil
	child.Source = &schemas.SourceSpec{
		Run: parent.Run, From: schemas.FromPolicy, Iteration: policy.Iteration, OffPolicy: schemas.RefuseOffPolicy,
		Policy: policy.Digest, Spec: parent.Digest(),
	}
	if left := parent.Iterations - policy.Iteration; left > 0 && !assigns(f.Set, "iterations") {
		child.Iterations = left
	}
	measures := child.NeedsGuide() && parent.NeedsGuide() && child.Guide.From == ""
	if measures && facts.Guide && !changesGuide(differences) {
		child.Guide.From = newest(parent)
	}
	return finished(child)
}
