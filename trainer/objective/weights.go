package objective

import (
	"fmt"
	"math"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/schedule"
)

// NormaliserMetric is the name of the metric in a policy's manifest that is the normaliser of its iteration.
const NormaliserMetric = "normaliser"

// Weights turns the distances of an iteration, in the order of its pairs, into the weights w of equation (LD). It returns w and
// the normaliser.
//
// w_k = s_k^p / normaliser, where p is weight_power (1 in the paper) and the normaliser is the mean of s^p
//
//   - over these distances (per_iteration, S_t), so that the mean weight is 1;
//   - over those of iteration 0 (fixed_first, S_0), which the caller passes as first; first is ignored otherwise;
//   - over pairs 0 to k (running). The first training.batch pairs, which are trained together, share the mean over all of them.
//     More distances do not change the weights of earlier pairs, so a trainer need not wait for the rest. The normaliser
//     returned is the last one.
//
// With a clip c > 0, w is bounded by c and then scaled back to the mean that it had; with running, whose final mean is not
// known yet, it is only bounded. weight: one makes all weights 1; weight: shuffled deals the same weights to random pairs. If
// every distance is 0, all weights are 0, which is the limit of the equation, and the iteration changes nothing. A distance
// that is negative or not finite is an error, which names the pair.
func Weights(distances []float64, spec schemas.Spec, iteration uint32, first float64) ([]float64, float64, error) {
	o := spec.Objective
	w := make([]float64, len(distances))
	if len(w) == 0 {
		return w, 0, nil
	}
	for i, s := range distances {
		if !finite(s) || s < 0 {
			return nil, 0, fmt.Errorf("trainer: distance of pair %d in iteration %d is %v: it must be finite and at least 0",
				i, iteration, s)
		}
		w[i] = power(s, o.WeightPower)
	}
	normalisers := []float64{mean(w)}
	switch {
	case o.Normaliser == "running":
		normalisers = runningMeans(w, spec.Training.Batch)
	case o.Normaliser == "fixed_first" && iteration > 0:
		normalisers[0] = first
	}
	normaliser := normalisers[len(normalisers)-1]
	if !finite(normaliser) {
		return nil, 0, fmt.Errorf("trainer: the mean of distance^%v in iteration %d is %v: lower objective.weight_power",
			o.WeightPower, iteration, normaliser)
	}
	for i := range w {
		by := normalisers[min(i, len(normalisers)-1)]
		switch {
		case o.Weight == "one":
			w[i] = 1
		case by > 0:
			w[i] /= by
		default:
			w[i] = 0
		}
	}
	if o.WeightClip > 0 && o.Weight != "one" {
		clip(w, o.WeightClip, o.Normaliser != "running")
	}
	if o.Weight == "shuffled" {
		dealt := make([]float64, len(w))
		for i, j := range schedule.Permutation(len(w), spec.Seed, "weights", iteration, 0) {
			dealt[i] = w[j]
		}
		w = dealt
	}
	return w, normaliser, nil
}

// power is s^p. A p of 0 was not set and means 1.
func power(s, p float64) float64 {
	if p == 0 || p == 1 {
		return s
	}
	return math.Pow(s, p)
}

func mean(x []float64) float64 {
	var sum float64
	for _, v := range x {
		sum += v
	}
	return sum / float64(len(x))
}

// runningMeans returns for each k the mean of x[0] to x[k]; for k < together it is the mean of x[0] to x[together-1].
func runningMeans(x []float64, together int) []float64 {
	together = min(max(together, 1), len(x))
	means := make([]float64, len(x))
	var sum float64
	for k, v := range x {
		sum += v
		means[k] = sum / float64(k+1)
	}
	for k := range together {
		means[k] = means[together-1]
	}
	return means
}

// clip bounds w by c and, with keepMean, restores its mean.
func clip(w []float64, c float64, keepMean bool) {
	var before, after float64
	for i := range w {
		before += w[i]
		w[i] = math.Min(w[i], c)
		after += w[i]
	}
	if after == 0 || !keepMean {
		return
	}
	for i := range w {
		w[i] *= before / after
	}
}

// EffectiveSampleSize returns (sum w)^2 / sum w^2: the number of equally weighted pairs with the same variance.
func EffectiveSampleSize(w []float64) float64 {
	var sum, squares float64
	for _, x := range w {
		sum += x
		squares += x * x
	}
	if squares == 0 {
		return 0
	}
	return sum * sum / squares
}
