package schedule

import "github.com/ldalign/ldalign/schemas"

// The phases of a run, as cursors and records name them.
const (
	Policy = "policy"
	Guide  = "guide"
)

// Plan contains what the spec decides about a phase before its first step. A phase trains examples for some epochs with a
// fresh optimizer.
type Plan struct {
	// Phase is Policy or Guide.
	Phase     string
	Iteration uint32
	Seed      uint64
	Optimizer schemas.OptimizerSpec
	Epochs    int
	// Batch is the number of examples of an optimizer step; the last one of an epoch may have fewer.
	Batch int
	// Micro and MicroTokens are the most examples and positions that go through the model together.
	Micro, MicroTokens int
	// Every is the number of steps between two state checkpoints; 0 for none.
	Every int
	// InOrder makes the first epoch visit the examples in their order, without shuffling.
	InOrder bool
}

// PolicyPlan returns the plan of an iteration's policy.
func PolicyPlan(spec schemas.Spec, iteration uint32) Plan {
	t := spec.Training
	return Plan{
		Phase: Policy, Iteration: iteration, Seed: spec.Seed, Optimizer: spec.Optimizer, Epochs: t.Epochs, Batch: t.Batch,
		Micro: t.MicroBatch, MicroTokens: t.MicroTokens, Every: t.CheckpointEvery, InOrder: t.Schedule == "streaming",
	}
}

// GuidePlan returns the plan of the guide.
func GuidePlan(spec schemas.Spec) Plan {
	t, g := spec.Training, spec.Guide
	return Plan{
		Phase: Guide, Seed: spec.Seed, Optimizer: g.Optimizer, Epochs: g.Epochs, Batch: g.Batch,
		Micro: min(g.Batch, t.MicroBatch), MicroTokens: t.MicroTokens, Every: t.CheckpointEvery,
	}
}

// Total returns the number of steps of all epochs over the given number of examples.
func (p Plan) Total(examples int) int { return Steps(examples, p.Batch, p.Epochs) }

// Steps returns the number of steps of one epoch over the given number of examples.
func (p Plan) Steps(examples int) int { return Steps(examples, p.Batch, 1) }

// Order returns the order in which an epoch visits n examples.
func (p Plan) Order(n, epoch int) []int {
	if p.InOrder && epoch == 0 {
		return Sequence(0, n)
	}
	return Permutation(n, p.Seed, p.Phase, p.Iteration, epoch)
}

// Sequence returns n successive numbers, starting with from.
func Sequence(from, n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = from + i
	}
	return out
}

// Rate returns the learning rate of step k (from 0) of n.
func (p Plan) Rate(k, n int) float64 {
	return LearningRate(p.Optimizer, PeakRate(p.Optimizer, p.Iteration), k, n)
}

// Parts cuts a batch, in its order, into micro-batches of as many examples as the bounds allow, at least one. size returns the
// number of positions of an example. So micro-batches depend only on the spec and the data.
func (p Plan) Parts(batch []int, size func(i int) int) [][]int {
	var parts [][]int
	from, total := 0, 0
	for at, i := range batch {
		n := size(i)
		if at > from && (at-from >= p.Micro || total+n > p.MicroTokens) {
			parts = append(parts, batch[from:at])
			from, total = at, 0
		}
		total += n
	}
	return append(parts, batch[from:])
}
