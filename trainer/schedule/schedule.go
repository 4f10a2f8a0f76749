package schedule

import (
	"math"
	"math/rand/v2"

	"github.com/ldalign/ldalign/schemas"
)

// Permutation returns the order in which an epoch of an iteration visits n examples: a Fisher-Yates shuffle seeded by the spec.
func Permutation(n int, seed uint64, phase string, iteration uint32, epoch int) []int {
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	random := rand.NewPCG(schemas.SubSeed(seed, "shuffle/"+phase, uint64(iteration)), uint64(epoch))
	for i := n - 1; i > 0; i-- {
		j := int(random.Uint64() % uint64(i+1))
		order[i], order[j] = order[j], order[i]
	}
	return order
}

// Steps is the number of optimizer steps of an iteration; the last batch of an epoch may be smaller.
func Steps(examples, batch, epochs int) int {
	return epochs * ((examples + batch - 1) / batch)
}

// LearningRate returns the learning rate of step k (from 0) of n; base is the peak rate. Over the first w steps, the warm-up
// share rounded up, it rises linearly: from base/(w+1) at step 0 (warmup_start: step, as in the DPO reference code), or from 0
// (warmup_start: zero, as in transformers' get_scheduler), which trains the first batch at rate 0. Afterwards it is
// get_scheduler's: constant, or linear or half a cosine down to 0 at step n.
func LearningRate(o schemas.OptimizerSpec, base float64, k, n int) float64 {
	warmup := int(math.Ceil(o.Warmup * float64(n)))
	switch {
	case k < warmup && o.WarmupStart == "zero":
		return base * float64(k) / float64(warmup)
	case k < warmup:
		return base * float64(k+1) / float64(warmup+1)
	}
	progress := float64(k-warmup) / math.Max(1, float64(n-warmup))
	switch o.Schedule {
	case "linear":
		return base * math.Max(0, 1-progress)
	case "cosine":
		return base * 0.5 * (1 + math.Cos(math.Pi*progress))
	default:
		return base
	}
}

// PeakRate returns the peak learning rate of an iteration.
func PeakRate(o schemas.OptimizerSpec, iteration uint32) float64 {
	return o.LR * math.Pow(o.LRDecay, float64(iteration))
}
