package schedule

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/ldalign/ldalign/schemas"
)

// TestPermutationIsPinned: a run that goes on under a newer program must visit its pairs in the order it began with.
func TestPermutationIsPinned(t *testing.T) {
	tests := []struct {
		seed      uint64
		phase     string
		iteration uint32
		epoch     int
		want      []int
	}{
		{1, "policy", 0, 0, []int{6, 5, 0, 2, 4, 1, 3, 7}},
		{1, "policy", 0, 1, []int{5, 0, 4, 6, 2, 7, 3, 1}},
		{1, "policy", 1, 0, []int{0, 7, 2, 4, 1, 6, 5, 3}},
		{1, "guide", 0, 0, []int{7, 4, 5, 2, 6, 1, 3, 0}},
		{2, "policy", 0, 0, []int{5, 6, 3, 0, 1, 4, 7, 2}},
	}
	for _, test := range tests {
		got := Permutation(8, test.seed, test.phase, test.iteration, test.epoch)
		if !slices.Equal(got, test.want) {
			t.Errorf("Permutation(8, %d, %s, %d, %d) = %v, want %v", test.seed, test.phase, test.iteration, test.epoch, got, test.want)
		}
	}
}

func TestPermutation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 200).Draw(t, "n")
		seed, epoch := rapid.Uint64().Draw(t, "seed"), rapid.IntRange(0, 9).Draw(t, "epoch")
		got := Permutation(n, seed, "policy", 3, epoch)
		if !slices.Equal(got, Permutation(n, seed, "policy", 3, epoch)) {
			t.Error("drawn twice, not the same")
		}
		slices.Sort(got)
		for i, v := range got {
			if i != v {
				t.Fatalf("not a permutation of 0 to %d: %v", n-1, got)
			}
		}
		if len(got) != n {
			t.Errorf("%d places, want %d", len(got), n)
		}
	})
}

// TestPermutationIsFair draws many and looks how often each example comes first: 4 standard deviations around 1/n.
func TestPermutationIsFair(t *testing.T) {
	const n, draws = 10, 20000
	var first [n]int
	for epoch := range draws {
		first[Permutation(n, 1, "policy", 0, epoch)[0]]++
	}
	p := 1.0 / n
	limit := 4 * math.Sqrt(draws*p*(1-p))
	for i, count := range first {
		if math.Abs(float64(count)-draws*p) > limit {
			t.Errorf("example %d is first %d times of %d, want %v ± %.0f", i, count, draws, draws*p, limit)
		}
	}
}

func TestSteps(t *testing.T) {
	tests := []struct{ examples, batch, epochs, want int }{
		{0, 4, 2, 0}, {1, 4, 1, 1}, {4, 4, 1, 1}, {5, 4, 1, 2}, {5, 4, 3, 6}, {8, 4, 2, 4}, {3, 64, 2, 2},
	}
	for _, test := range tests {
		if got := Steps(test.examples, test.batch, test.epochs); got != test.want {
			t.Errorf("Steps(%d, %d, %d) = %d, want %d", test.examples, test.batch, test.epochs, got, test.want)
		}
	}
}

func TestLearningRate(t *testing.T) {
	tests := []struct {
		name     string
		schedule string
		warmup   float64
		want     []float64
	}{
		{"linear", "linear", 0, []float64{1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1}},
		{"constant", "constant", 0, []float64{1, 1, 1, 1, 1, 1, 1, 1, 1, 1}},
		{"cosine", "cosine", 0, []float64{
			1, 0.9755282581, 0.9045084972, 0.7938926261, 0.6545084972, 0.5, 0.3454915028, 0.2061073739, 0.0954915028, 0.0244717419,
		}},
		{"linear after a warm-up", "linear", 0.2, []float64{1. / 3, 2. / 3, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125}},
		{"a part of a step warms up for a step", "constant", 0.11, []float64{1. / 3, 2. / 3, 1, 1, 1, 1, 1, 1, 1, 1}},
		{"warm-up alone", "linear", 0.99, []float64{1. / 11, 2. / 11, 3. / 11, 4. / 11, 5. / 11, 6. / 11, 7. / 11, 8. / 11, 9. / 11, 10. / 11}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := schemas.OptimizerSpec{Schedule: test.schedule, Warmup: test.warmup}
			got := make([]float64, len(test.want))
			for k := range got {
				got[k] = LearningRate(o, 2, k, len(got)) / 2
			}
			if diff := cmp.Diff(test.want, got, cmpopts.EquateApprox(0, 1e-9)); diff != "" {
				t.Errorf("rates (-want +got):\n%s", diff)
			}
		})
	}
}

// TestLearningRateShape: it is never 0 in a step that is made, never above the peak, and rises before it falls.
func TestLearningRateShape(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := schemas.OptimizerSpec{
			Schedule: rapid.SampledFrom([]string{"linear", "cosine", "constant"}).Draw(t, "schedule"),
			Warmup:   rapid.Float64Range(0, 0.999).Draw(t, "warmup"),
		}
		n := rapid.IntRange(1, 300).Draw(t, "n")
		const peak = 3e-4
		falling := false
		before := 0.0
		for k := range n {
			rate := LearningRate(o, peak, k, n)
			if rate <= 0 || rate > peak {
				t.Fatalf("step %d of %d: rate %v, want in (0, %v]", k, n, rate, peak)
			}
			if rate > before && falling {
				t.Fatalf("step %d of %d: rate rises again, to %v", k, n, rate)
			}
			falling = falling || rate < before
			before = rate
		}
	})
}

func TestPeakRate(t *testing.T) {
	o := schemas.OptimizerSpec{LR: 5e-7, LRDecay: 0.2}
	for iteration, want := range []float64{5e-7, 1e-7, 2e-8} {
		if got := PeakRate(o, uint32(iteration)); math.Abs(got-want) > 1e-18 {
			t.Errorf("iteration %d: %v, want %v", iteration, got, want)
		}
	}
}

// TestLearningRateIsTransformers holds warmup_start: zero against get_scheduler; and the other start where it does not
// differ, after the warm-up. See ../loop/testdata/make_trl_goldens.py.
func TestLearningRateIsTransformers(t *testing.T) {
	data, err := os.ReadFile("../loop/testdata/trl.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Schedules []struct {
			Schedule string
			Warmup   int
			Factors  []float64
		}
	}
	if err := json.Unmarshal(data, &golden); err != nil {
		t.Fatal(err)
	}
	if len(golden.Schedules) == 0 {
		t.Fatal("testdata/trl.json holds no schedule")
	}
	for _, g := range golden.Schedules {
		n := len(g.Factors)
		share := (float64(g.Warmup) - 0.5) / float64(n) // rounded up to Warmup steps
		for k, want := range g.Factors {
			o := schemas.OptimizerSpec{Schedule: g.Schedule, Warmup: max(0, share), WarmupStart: "zero"}
			within(t, fmt.Sprintf("%s, warm-up %d, step %d of %d", g.Schedule, g.Warmup, k, n), LearningRate(o, 1, k, n), want, 1e-15)
			o.WarmupStart = "step"
			if k >= g.Warmup {
				within(t, fmt.Sprintf("%s from a step, step %d", g.Schedule, k), LearningRate(o, 1, k, n), want, 1e-15)
			}
		}
	}
}

func within(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tolerance) { // so that NaN fails
		t.Errorf("%s: %.12g, want %.12g within %g", what, got, want, tolerance)
	}
}
