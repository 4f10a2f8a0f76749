package objective

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/ldalign/ldalign/schemas"
)

// weigh is Weights by what it reads of a spec.
func weigh(
	distances []float64, o schemas.ObjectiveSpec, seed uint64, iteration uint32, first float64,
) ([]float64, float64, error) {
	return Weights(distances, schemas.Spec{Objective: o, Seed: seed, Training: schemas.TrainingSpec{Batch: 2}}, iteration, first)
}

// near compares numbers up to rounding.
var near = cmpopts.EquateApprox(0, 1e-12)

func TestWeights(t *testing.T) {
	distances := []float64{1.2, 0.4, 2.0}
	tests := []struct {
		name       string
		objective  schemas.ObjectiveSpec
		iteration  uint32
		first      float64
		distances  []float64
		weights    []float64
		normaliser float64
	}{
		{name: "the paper's: s over its mean", distances: distances, weights: []float64{1, 1. / 3, 5. / 3}, normaliser: 1.2},
		{
			name: "S_0 in iteration 0 is its own mean", objective: schemas.ObjectiveSpec{Normaliser: "fixed_first"}, first: 99,
			distances: distances, weights: []float64{1, 1. / 3, 5. / 3}, normaliser: 1.2,
		},
		{
			name: "S_0 later is the first iteration's", objective: schemas.ObjectiveSpec{Normaliser: "fixed_first"},
			iteration: 2, first: 2.4, distances: distances, weights: []float64{0.5, 1. / 6, 5. / 6}, normaliser: 2.4,
		},
		{
			name: "S_t ignores the first iteration", objective: schemas.ObjectiveSpec{Normaliser: "per_iteration"},
			iteration: 2, first: 2.4, distances: distances, weights: []float64{1, 1. / 3, 5. / 3}, normaliser: 1.2,
		},
		{
			name: "one", objective: schemas.ObjectiveSpec{Weight: "one", WeightClip: 1},
			distances: distances, weights: []float64{1, 1, 1}, normaliser: 1.2,
		},
		{
			// 1, 1/3 and 5/3 bounded by 1 are 1, 1/3 and 1: their mean is 7/9
			name: "clip", objective: schemas.ObjectiveSpec{WeightClip: 1},
			distances: distances, weights: []float64{9. / 7, 3. / 7, 9. / 7}, normaliser: 1.2,
		},
		{
			name: "a clip that bounds nothing", objective: schemas.ObjectiveSpec{WeightClip: 2},
			distances: distances, weights: []float64{1, 1. / 3, 5. / 3}, normaliser: 1.2,
		},
		{
			// squares 1.44, 0.16 and 4: their mean is 5.6/3
			name: "power", objective: schemas.ObjectiveSpec{WeightPower: 2},
			distances: distances, weights: []float64{4.32 / 5.6, 0.48 / 5.6, 12 / 5.6}, normaliser: 5.6 / 3,
		},
		{
			name: "power of S_0", objective: schemas.ObjectiveSpec{WeightPower: 2, Normaliser: "fixed_first"}, iteration: 1,
			first: 2, distances: distances, weights: []float64{0.72, 0.08, 2}, normaliser: 2,
		},
		{
			// the first two are a batch, whose mean is 0.8; then the mean of all three
			name: "running", objective: schemas.ObjectiveSpec{Normaliser: "running"}, iteration: 1, first: 99,
			distances: distances, weights: []float64{1.5, 0.5, 5. / 3}, normaliser: 1.2,
		},
		{
			name: "running, bounded", objective: schemas.ObjectiveSpec{Normaliser: "running", WeightClip: 1},
			distances: distances, weights: []float64{1, 0.5, 1}, normaliser: 1.2,
		},
		{
			name: "running, zeros first", objective: schemas.ObjectiveSpec{Normaliser: "running"},
			distances: []float64{0, 0, 3}, weights: []float64{0, 0, 3}, normaliser: 1,
		},
		{
			name: "running over less than a batch", objective: schemas.ObjectiveSpec{Normaliser: "running"},
			distances: []float64{3}, weights: []float64{1}, normaliser: 3,
		},
		{name: "all distances 0", distances: []float64{0, 0}, weights: []float64{0, 0}},
		{
			name: "all distances 0, clipped", objective: schemas.ObjectiveSpec{WeightClip: 1},
			distances: []float64{0, 0}, weights: []float64{0, 0},
		},
		{
			name: "all distances 0, weight one", objective: schemas.ObjectiveSpec{Weight: "one"},
			distances: []float64{0, 0}, weights: []float64{1, 1},
		},
		{
			name: "S_0 is 0", objective: schemas.ObjectiveSpec{Normaliser: "fixed_first"}, iteration: 1,
			distances: distances, weights: []float64{0, 0, 0},
		},
		{name: "nothing", distances: []float64{}, weights: []float64{}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			given := slices.Clone(test.distances)
			w, normaliser, err := weigh(given, test.objective, 1, test.iteration, test.first)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.weights, w, near); diff != "" {
				t.Errorf("weights (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.normaliser, normaliser, near); diff != "" {
				t.Errorf("normaliser (-want +got):\n%s", diff)
			}
			if !slices.Equal(given, test.distances) {
				t.Error("the distances were changed")
			}
		})
	}
}

func TestWeightsRefuseWhatIsNoDistance(t *testing.T) {
	for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), -1e-9} {
		for _, weight := range []string{"distance", "one", "shuffled"} {
			_, _, err := weigh([]float64{1, bad}, schemas.ObjectiveSpec{Weight: weight}, 1, 3, 0)
			if err == nil || !strings.Contains(err.Error(), "pair 1 in iteration 3") {
				t.Errorf("%v, weight %s: got %v, want an error that names pair 1 of iteration 3", bad, weight, err)
			}
		}
	}
}

// drawDistances draws what an iteration may hold, equal ones and zeros among them.
func drawDistances(t *rapid.T) []float64 {
	one := rapid.OneOf(rapid.Just(0.0), rapid.Just(1.0), rapid.Float64Range(1e-6, 1e3))
	return rapid.SliceOfN(one, 1, 50).Draw(t, "distances")
}

// TestWeightsKeepTheirMean is why the normaliser exists: the learning rate means the same in every iteration.
func TestWeightsKeepTheirMean(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		distances := drawDistances(t)
		if slices.Max(distances) == 0 {
			return
		}
		objective := schemas.ObjectiveSpec{
			Normaliser: "per_iteration",
			Weight:     rapid.SampledFrom([]string{"distance", "one", "shuffled"}).Draw(t, "weight"),
			WeightClip: rapid.SampledFrom([]float64{0, 1, 1.5, 3}).Draw(t, "clip"),
		}
		w, _, err := weigh(distances, objective, rapid.Uint64().Draw(t, "seed"), 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := mean(w); math.Abs(got-1) > 1e-9 {
			t.Errorf("mean weight %v, want 1", got)
		}
		if slices.Min(w) < 0 {
			t.Errorf("weight %v is negative", slices.Min(w))
		}
	})
}

func TestClippedWeightsKeepOrderAndBound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		distances := drawDistances(t)
		bound := rapid.Float64Range(1, 4).Draw(t, "clip")
		w, normaliser, err := weigh(distances, schemas.ObjectiveSpec{WeightClip: bound}, 1, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		if normaliser == 0 {
			return
		}
		// all that reach the bound weigh the same, and nothing weighs more
		most := slices.Max(w)
		for i, s := range distances {
			if s/normaliser >= bound && math.Abs(w[i]-most) > 1e-9*most {
				t.Errorf("pair %d is clipped but weighs %v, not %v", i, w[i], most)
			}
			for j := range distances {
				if s < distances[j] && w[i] > w[j]+1e-12 {
					t.Errorf("pair %d is nearer than %d but weighs more", i, j)
				}
			}
		}
	})
}

// TestRunningWeightsOfAPrefix: what a trainer computes before the rest of an iteration is there stays true when it comes.
func TestRunningWeightsOfAPrefix(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		distances := drawDistances(t)
		o := schemas.ObjectiveSpec{
			Normaliser: "running", WeightClip: rapid.SampledFrom([]float64{0, 1.5}).Draw(t, "clip"),
			WeightPower: rapid.SampledFrom([]float64{1, 0.5}).Draw(t, "power"),
		}
		whole, _, err := weigh(distances, o, 1, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		n := rapid.IntRange(min(2, len(distances)), len(distances)).Draw(t, "prefix")
		part, _, err := weigh(distances[:n], o, 1, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(part, whole[:n]) {
			t.Errorf("weights of the first %d: %v, of all: %v", n, part, whole)
		}
	})
}

// TestPowerBeyondFloats is refused, not trained with infinite weights.
func TestPowerBeyondFloats(t *testing.T) {
	_, _, err := weigh([]float64{1e300, 2}, schemas.ObjectiveSpec{WeightPower: 2}, 1, 4, 0)
	if err == nil || !strings.Contains(err.Error(), "weight_power") {
		t.Errorf("got %v, want an error that names weight_power", err)
	}
}

// TestShuffledWeights: the control deals the very same weights, elsewhere, and again the same way.
func TestShuffledweigh(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		distances := drawDistances(t)
		seed, iteration := rapid.Uint64().Draw(t, "seed"), rapid.Uint32Range(0, 5).Draw(t, "iteration")
		plain, _, err := weigh(distances, schemas.ObjectiveSpec{Weight: "distance"}, seed, iteration, 0)
		if err != nil {
			t.Fatal(err)
		}
		shuffled, _, err := weigh(distances, schemas.ObjectiveSpec{Weight: "shuffled"}, seed, iteration, 0)
		if err != nil {
			t.Fatal(err)
		}
		again, _, err := weigh(distances, schemas.ObjectiveSpec{Weight: "shuffled"}, seed, iteration, 0)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(shuffled, again) {
			t.Error("shuffled twice, dealt differently")
		}
		slices.Sort(plain)
		slices.Sort(shuffled)
		if !slices.Equal(plain, shuffled) {
			t.Error("the shuffled weights are not a permutation of the weights")
		}
	})
	distances := make([]float64, 100)
	for i := range distances {
		distances[i] = float64(i)
	}
	plain, _, _ := weigh(distances, schemas.ObjectiveSpec{Weight: "distance"}, 1, 0, 0)
	first, _, _ := weigh(distances, schemas.ObjectiveSpec{Weight: "shuffled"}, 1, 0, 0)
	second, _, _ := weigh(distances, schemas.ObjectiveSpec{Weight: "shuffled"}, 1, 1, 0)
	if slices.Equal(plain, first) || slices.Equal(first, second) {
		t.Error("the weights stay where they were")
	}
}

func TestEffectiveSampleSize(t *testing.T) {
	tests := []struct {
		weights []float64
		want    float64
	}{
		{nil, 0},
		{[]float64{0, 0}, 0},
		{[]float64{1, 1, 1, 1}, 4},
		{[]float64{3, 3}, 2},
		{[]float64{5, 0, 0}, 1},
		{[]float64{1, 1. / 3, 5. / 3}, 9. / (1 + 1./9 + 25./9)},
	}
	for _, test := range tests {
		if got := EffectiveSampleSize(test.weights); math.Abs(got-test.want) > 1e-12 {
			t.Errorf("EffectiveSampleSize(%v) = %v, want %v", test.weights, got, test.want)
		}
	}
}
