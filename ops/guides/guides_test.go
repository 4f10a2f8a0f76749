package guides

import (
	"math"
	"testing"
)

func TestSpearman(t *testing.T) {
	for _, c := range []struct {
		x, y []float64
		want float64
	}{
		{[]float64{1, 2, 3}, []float64{10, 20, 30}, 1},
		{[]float64{1, 2, 3}, []float64{3, 2, 1}, -1},
		{[]float64{1, 1, 2}, []float64{5, 6, 7}, math.Sqrt(3) / 2},
		{[]float64{1, 1}, []float64{5, 6}, 0},
	} {
		if got := spearman(c.x, c.y); math.Abs(got-c.want) > 1e-12 {
			t.Errorf("spearman(%v, %v) = %v, want %v", c.x, c.y, got, c.want)
		}
	}
}

func TestDistancesOfPairs(t *testing.T) {
	d := Distances{Pairs: 8}
	d.fill([]float64{4, 1, 2, 3})
	if d.Identical != 0.5 || d.Mean != 2.5 || d.P10 != 1 || d.Median != 3 || d.P90 != 4 || d.Max != 4 {
		t.Errorf("%+v", d)
	}
	count := 0
	for _, b := range d.Histogram {
		count += b.Count
	}
	if last := d.Histogram[len(d.Histogram)-1]; count != 4 || last.UpTo != 4 || last.Count != 1 {
		t.Errorf("the histogram is %+v", d.Histogram)
	}
	none := Distances{Pairs: 3}
	none.fill(nil)
	if none.Identical != 1 || none.Mean != 0 || none.Histogram != nil {
		t.Errorf("of identical pairs: %+v", none)
	}
}
