package dataset_test

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/ldalign/ldalign/dataset"
)

func TestOrderIsAPermutation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 50).Draw(t, "n")
		samples := rapid.IntRange(1, 4).Draw(t, "samples")
		seed, iteration := rapid.Uint64().Draw(t, "seed"), rapid.Uint32().Draw(t, "iteration")
		order := slices.Collect(dataset.Order(n, seed, iteration, samples))
		if !slices.Equal(order, slices.Collect(dataset.Order(n, seed, iteration, samples))) {
			t.Fatal("two calls differ")
		}
		if len(order) != n*samples {
			t.Fatalf("%d places, want %d", len(order), n*samples)
		}
		seen := map[[2]int]bool{}
		for i, p := range order {
			if p.Position != uint64(i) || int(p.Sample) != i%samples || p.Record != order[i-i%samples].Record {
				t.Fatalf("place %d is %+v", i, p)
			}
			if p.Record < 0 || p.Record >= n || seen[[2]int{p.Record, int(p.Sample)}] {
				t.Fatalf("place %d repeats or leaves the records: %+v", i, p)
			}
			seen[[2]int{p.Record, int(p.Sample)}] = true
		}
	})
}

// TestOrderIsStable: a run that an older build started must keep its order.
func TestOrderIsStable(t *testing.T) {
	records := func(seed uint64, iteration uint32) string {
		var out []int
		for p := range dataset.Order(8, seed, iteration, 1) {
			out = append(out, p.Record)
		}
		return fmt.Sprint(out)
	}
	for _, c := range []struct {
		seed      uint64
		iteration uint32
		want      string
	}{
		{1, 0, "[2 6 0 5 3 7 4 1]"},
		{1, 1, "[3 7 6 0 5 4 1 2]"},
		{2, 0, "[4 0 2 7 5 1 3 6]"},
	} {
		if got := records(c.seed, c.iteration); got != c.want {
			t.Errorf("seed %d, iteration %d: got %s, want %s", c.seed, c.iteration, got, c.want)
		}
	}
}

func TestOrderStops(t *testing.T) {
	for p := range dataset.Order(1000, 1, 0, 2) {
		if p.Position == 3 {
			break
		}
		if p.Position > 3 {
			t.Fatal("went on after break")
		}
	}
}
