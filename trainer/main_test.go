package trainer_test

import (
	"math"
	"testing"

	"go.uber.org/goleak"

	"github.com/ldalign/ldalign/models/tensor"
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

func within(t testing.TB, what string, got, want, tolerance float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tolerance) { // so that NaN fails
		t.Errorf("%s: %.12g, want %.12g within %g", what, got, want, tolerance)
	}
}

func mean(x []float64) float64 {
	var sum float64
	for _, v := range x {
		sum += v
	}
	return sum / float64(len(x))
}
