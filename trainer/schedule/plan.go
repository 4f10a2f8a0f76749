package schedule

import "github.com/ldalign/ldalign/schemas"

// The phases of a run, as cursors and records name them.
const (
	Policy = "policy"
	Guide  = "guide"
)

// Plan is what the spec decides of a phase before its first step. A phase trains fixed examples for some epochs with a fresh
// optimizer.
type Plan struct {
	// Phase is Policy or Guide.
	Phase     string
	Iteration uint32
	Seed      uint64
	Optimizer schemas.OptimizerSpec
	Epochs    int
	// Batch is the number of examples of an optimizer step; the last one of an epoch may have fewer.
	Batch int
	// Micro and MicroTokens bound the examples and the positions that go through the model together.
	Micro, MicroTokens int
	// Every is the number of steps between two state checkpoints; 0 for none.
	Every int
	// InOrder makes the first epoch visit the examples as they stand, not shuffled.
	InOrder bool
}

// PolicyPlan is the plan of an iteration's policy.
func PolicyPlan(spec schemas.Spec, iteration uint32) Plan {
	t := spec.Training
	return Plan{
		Phase: Policy, Iteration: iteration, Seed: spec.Seed, Optimizer: spec.Optimizer, Epochs: t.Epochs, Batch: t.Batch,
		Micro: t.MicroBatch, MicroTokens: t.MicroTokens, Every: t.CheckpointEvery, InOrder: t.Schedule == "streaming",
	}
}

// GuidePlan is the plan of the guide.
func GuidePlan(spec schemas.Spec) Plan {
	t, g := spec.Training, spec.Guide
	return Plan{
		Phase: Guide, Seed: spec.Seed, Optimizer: g.Optimizer, Epochs: g.Epochs, Batch: g.Batch,
		Micro: min(g.Batch, t.MicroBatch), MicroTokens: t.MicroTokens, Every: t.CheckpointEvery,
	}
}

// Total is the number of steps over so many examples.
func (p Plan) Total(examples int) int { return Steps(examples, p.Batch, p.Epochs) }

// Steps is the number of steps of an epoch over so many examples.
func (p Plan) Steps(examples int) int { return Steps(examples, p.Batch, 1) }

// Order is the order in which an epoch visits n examples.
func (p Plan) Order(n, epoch int) []int {
	if p.InOrder && epoch == 0 {
		return Sequence(0, n)
	}
	return Permutation(n, p.Seed, p.Phase, p.Iteration, epoch)
}

// Sequence is the n numbers from from on.
func Sequence(from, n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = from + i
	}
	return out
}

// Rate is the learning rate of step k (from 0) of n.
func (p Plan) Rate(k, n int) float64 {
	return LearningRate(p.Optimizer, PeakRate(p.Optimizer, p.Iteration), k, n)
}

// Parts cuts a batch, in its order, into micro-batches: as many examples as the bounds allow, at least one. size is how many
// positions an example takes. So micro-batches are a function of the spec and the data.
func (p Plan) Parts(batch []int, size func(i int) int) [][]int {
	if len(batch) == 0 { // the share of a rank
		return nil
	}
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
