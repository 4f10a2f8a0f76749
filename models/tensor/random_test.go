package tensor_test

import (
	"context"
	"slices"
	"testing"

	"github.com/ldalign/ldalign/models/tensor"
)

func draw(s *tensor.Scope) []float32 {
	return append(s.Randn(tensor.Float32, 20).Float32s(), s.Uniform(tensor.Float32, 3).Float32s()...)
}

func TestSeedDeterminesEverything(t *testing.T) {
	a, b := newEngine(t, 1), newEngine(t, 2)
	sequence := func(e *tensor.Engine, seed uint64) (out []float32) {
		err := e.Do(context.Background(), func(s *tensor.Scope) error {
			if err := s.Seed(seed); err != nil {
				return err
			}
			out = append(draw(s), draw(s)...)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	want := sequence(a, 5)
	if got := sequence(b, 5); !slices.Equal(want, got) {
		t.Error("the same seed gave other numbers on another engine")
	}
	if got := sequence(a, 6); slices.Equal(want, got) {
		t.Error("another seed gave the same numbers")
	}
	if got := sequence(a, 5); !slices.Equal(want, got) {
		t.Error("the same seed gave other numbers the second time")
	}
}

func TestEnginesDoNotDisturbEachOther(t *testing.T) {
	a, b := newEngine(t, 1), newEngine(t, 1)
	ctx := context.Background()
	var first, second []float32
	for i, out := range []*[]float32{&first, &second} {
		err := a.Do(ctx, func(s *tensor.Scope) error {
			if err := s.Seed(5); err != nil {
				return err
			}
			*out = draw(s)
			if i == 1 {
				if err := b.Do(ctx, func(s *tensor.Scope) error { draw(s); return s.Seed(1) }); err != nil {
					return err
				}
			}
			*out = append(*out, draw(s)...)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(first, second) {
		t.Error("another engine's draws changed this one's")
	}
}

func TestDistributions(t *testing.T) {
	do(t, func(s *tensor.Scope) error {
		const n = 40000
		u, z := s.Uniform(tensor.Float64, n), s.Randn(tensor.Float64, n)
		drawn := u.Float64s()
		if lo, hi := slices.Min(drawn), slices.Max(drawn); lo < 0 || hi >= 1 {
			t.Errorf("uniform numbers between %v and %v", lo, hi)
		}
		near(t, "moments", []float64{u.Mean().Item(), z.Mean().Item(), z.Mul(z).Mean().Item()}, []float64{0.5, 0, 1}, 0.02)
		return nil
	})
}
