package report

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func near(a, b float64) bool { return math.Abs(a-b) < 5e-5 }

// TestWilson has the score interval of published tables.
func TestWilson(t *testing.T) {
	for _, tc := range []struct {
		k, n      int
		low, high float64
	}{
		{8, 10, 0.49016, 0.94331},
		{0, 10, 0, 0.27753},
		{10, 10, 0.72247, 1},
		{50, 100, 0.40383, 0.59617},
		{0, 0, 0, 1},
	} {
		if low, high := wilson(tc.k, tc.n); !near(low, tc.low) || !near(high, tc.high) {
			t.Errorf("%d of %d: want %v to %v, got %v to %v", tc.k, tc.n, tc.low, tc.high, low, high)
		}
	}
}

func TestEffectiveSampleSize(t *testing.T) {
	for _, tc := range []struct {
		weights []float64
		want    float64
	}{
		{[]float64{2, 2, 2, 2}, 4},
		{[]float64{0, 0, 5}, 1},
		{[]float64{1, 1. / 3, 5. / 3}, 81. / 35}, // w of s = 1.2, 0.4, 2.0
		{[]float64{0, 0}, 0},
		{nil, 0},
	} {
		if got := effectiveSampleSize(tc.weights); !near(got, tc.want) {
			t.Errorf("%v: want %v, got %v", tc.weights, tc.want, got)
		}
	}
}

func TestSummarise(t *testing.T) {
	want := summary{N: 4, Mean: 5, SD: math.Sqrt(20. / 3)}
	if got := summarise([]float64{2, 4, 6, 8}); got.N != want.N || !near(got.Mean, want.Mean) || !near(got.SD, want.SD) {
		t.Errorf("want %v, got %v", want, got)
	}
}

func TestHistogramEdges(t *testing.T) {
	got := histogram([]float64{0, 0.99, 1, 2, 3.999, 4, 4.001, -0.1, math.NaN()}, 4, 4)
	if diff := cmp.Diff([]int{2, 1, 1, 2}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestHistogramCountsEveryValueOnce, in the bin whose edges hold it.
func TestHistogramCountsEveryValueOnce(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		top := rapid.Float64Range(1e-6, 1e6).Draw(rt, "top")
		bins := rapid.IntRange(1, 40).Draw(rt, "bins")
		values := rapid.SliceOf(rapid.Float64Range(0, top)).Draw(rt, "values")
		counts := histogram(values, top, bins)
		total := 0
		for i, n := range counts {
			total += n
			alone := 0
			low, high := top*float64(i)/float64(bins), top*float64(i+1)/float64(bins)
			slack := top * 1e-12 // an edge belongs to either side
			for _, v := range values {
				if v >= low-slack && v <= high+slack {
					alone++
				}
			}
			if n > alone {
				rt.Fatalf("bin %d counts %d, but only %d values lie in it", i, n, alone)
			}
		}
		if len(counts) != bins || total != len(values) {
			rt.Fatalf("want %d values in %d bins, got %d in %d", len(values), bins, total, len(counts))
		}
	})
}
