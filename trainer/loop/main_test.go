package loop

import (
	"math"
	"testing"

	"go.uber.org/goleak"

	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/trainer/objective"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newEngine starts an engine of one thread that ends with the test.
func newEngine(t *testing.T) *tensor.Engine {
	t.Helper()
	engine, err := tensor.NewEngine(tensor.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	})
	return engine
}

// do runs f on the engine and fails the test when it returns an error.
func do(t *testing.T, engine *tensor.Engine, f func(s *tensor.Scope) error) {
	t.Helper()
	if err := engine.Do(t.Context(), f); err != nil {
		t.Fatal(err)
	}
}

// dpo is the loss of LD-Align, SPIN and DPO as their papers have it.
func dpo(beta float64) objective.Preference { return objective.Preference{Kind: "sigmoid", Beta: beta} }

func within(t testing.TB, what string, got, want, tolerance float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tolerance) { // so that NaN fails
		t.Errorf("%s: %.12g, want %.12g within %g", what, got, want, tolerance)
	}
}
