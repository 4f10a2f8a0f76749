package trainer

import (
	"fmt"
	"math"

	"github.com/ldalign/ldalign/schemas"
)

// Weights turns the distances of an iteration, in the prompter's order, into the weights w of equation (LD).
//
// w_i = s_i / normaliser, where the normaliser is the mean of s over the iteration (S_t, per_iteration) or over the first
// one (S_0, fixed_first: pass it as first; it is ignored otherwise). With a clip c > 0, w is bounded by c and then divided
// by its mean, so the mean weight stays what it was. weight: one makes all of them 1; weight: shuffled deals the same
// weights to random pairs. It returns w and the normaliser. When every distance is 0 there is nothing to weigh by: all
// weights are 0, as the equation has it in the limit, and the iteration moves nothing.
func Weights(
	distances []float64, o schemas.ObjectiveSpec, seed uint64, iteration uint32, first float64,
) ([]float64, float64, error) {
	w := make([]float64, len(distances))
	if len(w) == 0 {
		return w, 0, nil
	}
	var sum float64
	for i, s := range distances {
		if math.IsNaN(s) || math.IsInf(s, 0) || s < 0 {
			return nil, 0, fmt.Errorf("trainer: distance of pair %d in iteration %d is %v: it must be finite and at least 0",
				i, iteration, s)
		}
		sum += s
	}
	normaliser := sum / float64(len(w))
	if o.Normaliser == "fixed_first" && iteration > 0 {
		normaliser = first
	}
	for i, s := range distances {
		switch {
		case o.Weight == "one":
			w[i] = 1
		case normaliser > 0:
			w[i] = s / normaliser
		}
	}
	if o.WeightClip > 0 && o.Weight != "one" {
		clip(w, o.WeightClip)
	}
	if o.Weight == "shuffled" {
		dealt := make([]float64, len(w))
		for i, j := range Permutation(len(w), seed, "weights", iteration, 0) {
			dealt[i] = w[j]
		}
		w = dealt
	}
	return w, normaliser, nil
}

// clip bounds w by c and restores its mean.
func clip(w []float64, c float64) {
	var before, after float64
	for i := range w {
		before += w[i]
		w[i] = math.Min(w[i], c)
		after += w[i]
	}
	if after == 0 {
		return
	}
	for i := range w {
		w[i] *= before / after
	}
}

// EffectiveSampleSize of weights, (sum w)^2 / sum w^2: how many equally weighted pairs carry as much.
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
