package derive

import (
	"slices"

	"github.com/ldalign/ldalign/schemas"
)

// Newest stands for an iteration and means the parent's newest policy.
const Newest = -1

// Needs says which facts a plan needs.
type Needs struct {
	// Runs are the names of the new runs.
	Runs []string
	// Policies are iterations of the parent's policies, or Newest.
	Policies []int
	// Kind is the log of the parent that the new runs read, from iteration First up to but excluding End; empty for none.
	Kind       schemas.Kind
	First, End int
	// Guide says that the plan needs to know whether the parent has a guide.
	Guide bool
}

// and combines the needs of two plans that read the same log.
func (n Needs) and(other Needs) Needs {
	if len(n.Runs) == 0 {
		return other
	}
	n.Runs = append(n.Runs, other.Runs...)
	for _, p := range other.Policies {
		if !slices.Contains(n.Policies, p) {
			n.Policies = append(n.Policies, p)
		}
	}
	n.First, n.End, n.Guide = min(n.First, other.First), max(n.End, other.End), n.Guide || other.Guide
	return n
}

// Facts are what the server and the store say about what a plan needs.
type Facts struct {
	// Declared are the specs of those new runs that are already declared, by name.
	Declared map[string]schemas.Spec
	// Policies are the parent's policies, by their number in Needs.Policies.
	Policies map[int]Policy
	// Parts say where the parent's log holds its iterations, by iteration.
	Parts map[int]Part
	// Guide reports whether the parent has a guide.
	Guide bool
}

// Policy is a policy of the parent.
type Policy struct {
	Iteration int
	Digest    string
	// Missing says why the policy or its weights are missing; nil if both are there.
	Missing error
}

// Part is the range of sequences in which a log holds the messages of one iteration.
type Part struct {
	First, Last uint64
	// Missing says which messages of the iteration the log lacks; nil if it has all.
	Missing error
}
