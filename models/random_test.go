package models_test

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/models"
)

// On record: texts that were sampled once can be sampled again.
func TestUniformIsOnRecord(t *testing.T) {
	var got []float64
	for _, seed := range []uint64{0, 1, math.MaxUint64} {
		got = append(got, models.Uniform(seed, 0), models.Uniform(seed, 1), models.Uniform(seed, 1000))
	}
	want := []float64{
		0.8833108082136425, 0.43152799704850997, 0.17569250689332394,
		0.7497482413580301, 0.37239342287916566, 0.7309473738304755,
		0.6463542086468499, 0.7051565804294084, 0.9290188979218956,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("numbers (-want +got):\n%s", diff)
	}
}

func TestUniformIsUniform(t *testing.T) {
	const n, cells = 100_000, 100
	counts := make([]int, cells)
	sum, product := 0.0, 0.0
	for i := range n {
		seed, j := uint64(i/100), i%100 // neighbouring seeds and places, as they are used
		u, next := models.Uniform(seed, j), models.Uniform(seed, j+1)
		if u < 0 || u >= 1 {
			t.Fatalf("Uniform(%d, %d) is %g", seed, j, u)
		}
		counts[int(u*cells)]++
		sum += u
		product += (u - 0.5) * (next - 0.5)
	}
	chi := 0.0
	for _, c := range counts {
		chi += math.Pow(float64(c)-n/cells, 2) / (n / cells)
	}
	if chi > 160 { // 99 degrees of freedom
		t.Errorf("chi-squared is %g over %d cells", chi, cells)
	}
	if mean := sum / n; math.Abs(mean-0.5) > 0.004 {
		t.Errorf("mean is %g", mean)
	}
	if r := product / n * 12; math.Abs(r) > 0.015 {
		t.Errorf("correlation of neighbours is %g", r)
	}
}
