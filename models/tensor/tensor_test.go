package tensor_test

import (
	"context"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/models/tensor"
)

// do runs f on an engine of its own and fails the test when it returns an error.
func do(t *testing.T, f func(s *tensor.Scope) error) {
	t.Helper()
	if err := newEngine(t, 1).Do(context.Background(), f); err != nil {
		t.Fatal(err)
	}
}

func newEngine(t testing.TB, threads int) *tensor.Engine {
	t.Helper()
	e, err := tensor.NewEngine(tensor.Options{Threads: threads})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func TestVersion(t *testing.T) {
	got, err := tensor.Version()
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^2\.([7-9]|1\d)\.\d+$`).MatchString(got) {
		t.Errorf("Version() = %q, want 2.7.0 or newer", got)
	}
}

func TestExpression(t *testing.T) {
	do(t, func(s *tensor.Scope) error {
		x := s.FromFloat32([]float32{1, 2, 3, 4, 5, 6}, 2, 3)
		w := s.FromFloat32([]float32{1, 0, 0, 0, 1, 1}, 2, 3)
		y := x.Linear(w, nil).AddScalar(1)
		if diff := cmp.Diff([]float32{2, 6, 5, 12}, y.Float32s()); diff != "" {
			t.Errorf("x·wᵀ+1 (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]int64{2, 2}, y.Shape()); diff != "" {
			t.Errorf("shape (-want +got):\n%s", diff)
		}
		return nil
	})
}
