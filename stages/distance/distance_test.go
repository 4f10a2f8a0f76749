package distance_test

import (
	"errors"
	"math"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/stages/distance"
)

func TestBetween(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	most := float32(math.MaxFloat32)
	tests := []struct {
		name, metric string
		a, b         []float32
		want         float64
		fails        bool
	}{
		{name: "l2", metric: "l2", a: []float32{1, 2, 3}, b: []float32{1, 5, -1}, want: 5},
		{name: "l2 squared", metric: "l2_squared", a: []float32{1, 2, 3}, b: []float32{1, 5, -1}, want: 25},
		{name: "orthogonal", metric: "cosine", a: []float32{2, 0}, b: []float32{0, 7}, want: 1},
		{name: "opposite", metric: "cosine", a: []float32{1, 1}, b: []float32{-3, -3}, want: 2},
		{name: "60 degrees", metric: "cosine", a: []float32{1, 0}, b: []float32{1, float32(math.Sqrt(3))}, want: 0.5},
		{name: "same direction", metric: "cosine", a: []float32{1, 2}, b: []float32{10, 20}, want: 0},
		{name: "equal", metric: "l2", a: []float32{0.1, 0.2}, b: []float32{0.1, 0.2}, want: 0},
		{name: "equal, cosine", metric: "cosine", a: []float32{0.1, 0.7}, b: []float32{0.1, 0.7}, want: 0},
		{name: "zero, cosine", metric: "cosine", a: []float32{0, 0}, b: []float32{1, 2}, want: 0},
		{name: "beyond float32", metric: "l2", a: []float32{most, most}, b: []float32{-most, -most}, want: 2 * math.Sqrt2 * float64(most)},
		{name: "unknown metric", metric: "l1", a: []float32{1}, b: []float32{2}, fails: true},
		{name: "no metric", metric: "", a: []float32{1}, b: []float32{2}, fails: true},
		{name: "unequal", metric: "l2", a: []float32{1}, b: []float32{2, 3}, fails: true},
		{name: "empty", metric: "l2", fails: true},
		{name: "NaN", metric: "l2", a: []float32{1, nan}, b: []float32{1, 2}, fails: true},
		{name: "NaN in both, l2 squared", metric: "l2_squared", a: []float32{nan}, b: []float32{nan}, fails: true},
		{name: "NaN, cosine", metric: "cosine", a: []float32{nan, 1}, b: []float32{1, 2}, fails: true},
		{name: "infinite", metric: "l2", a: []float32{inf}, b: []float32{2}, fails: true},
		{name: "infinite in both", metric: "l2", a: []float32{inf}, b: []float32{inf}, fails: true},
		{name: "infinite, cosine", metric: "cosine", a: []float32{inf, 1}, b: []float32{1, 2}, fails: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := distance.Between(test.metric, test.a, test.b)
			if (err != nil) != test.fails || math.Abs(got-test.want) > 1e-7*math.Max(1, test.want) {
				t.Errorf("got %v, %v; want %v, fails %v", got, err, test.want, test.fails)
			}
		})
	}
}

func TestBetweenProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 20).Draw(t, "n")
		latent := rapid.SliceOfN(rapid.OneOf(rapid.Just(float32(0)), rapid.Float32Range(-100, 100)), n, n)
		a, b, c := latent.Draw(t, "a"), latent.Draw(t, "b"), latent.Draw(t, "c")
		between := func(metric string, x, y []float32) float64 {
			d, err := distance.Between(metric, x, y)
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
		for _, metric := range []string{"l2", "l2_squared", "cosine"} {
			if there, back := between(metric, a, b), between(metric, b, a); there != back {
				t.Errorf("%s is %v there and %v back", metric, there, back)
			}
			if d := between(metric, a, a); d != 0 {
				t.Errorf("%s of a latent from itself is %v", metric, d)
			}
			if d := between(metric, a, b); d < 0 {
				t.Errorf("%s is %v", metric, d)
			}
		}
		scaled, by := make([]float32, n), rapid.Float32Range(0.1, 10).Draw(t, "scale")
		for i := range a {
			scaled[i] = by * a[i]
		}
		if d := between("cosine", a, scaled); d < 0 || d > 1e-6 {
			t.Errorf("cosine of a latent from its multiple is %v", d)
		}
		l2, squared := between("l2", a, b), between("l2_squared", a, b)
		if math.Abs(l2*l2-squared) > 1e-12*squared {
			t.Errorf("l2 is %v, l2_squared %v", l2, squared)
		}
		if d := between("cosine", a, b); d > 2+1e-12 {
			t.Errorf("cosine is %v, more than 2", d)
		}
		if way := between("l2", a, c) + between("l2", c, b); l2 > way*(1+1e-12) {
			t.Errorf("l2 is %v, but %v by way of a third", l2, way)
		}
	})
}

func TestStage(t *testing.T) {
	nan := float32(math.NaN())
	pair := &events.Pair{Prompt: &events.Prompt{Run: "r", PairId: "p1"}, Rejected: "no"}
	in := []*events.Encoded{
		{Pair: pair, ChosenLatent: []float32{0, 3}, RejectedLatent: []float32{4, 0}, Guide: "g"},
		{Pair: pair, ChosenLatent: []float32{0, nan}, RejectedLatent: []float32{4, 0}, Guide: "g"},
		{Pair: pair, ChosenLatent: []float32{1, 1}, RejectedLatent: []float32{1}, Guide: "g"},
		{Pair: pair, ChosenLatent: []float32{1}, RejectedLatent: []float32{1}, Guide: "g"},
	}
	out, errs := distance.Stage{Metric: "l2"}.Process(t.Context(), in)
	for i, want := range []*events.Scored{
		{Schema: events.Version, Pair: pair, Distance: 5, Metric: "l2", Guide: "g"},
		nil, nil,
		{Schema: events.Version, Pair: pair, Distance: 0, Metric: "l2", Guide: "g"},
	} {
		if want != nil {
			if errs[i] != nil || !proto.Equal(want, out[i]) {
				t.Errorf("message %d: %v, %v; want %v", i, out[i], errs[i], want)
			}
			continue
		}
		var reject *schemas.Reject
		if !errors.As(errs[i], &reject) || reject.Reason != schemas.ReasonInvalid || out[i] != nil {
			t.Errorf("message %d: %v, %v; want it rejected as invalid", i, out[i], errs[i])
		}
	}
}

// TestGiven: the data's own distance is taken as it is, and one that is none is refused.
func TestGiven(t *testing.T) {
	numbers := []float64{0.25, 0, -1, math.NaN(), math.Inf(1)}
	in := []*events.Encoded{{Pair: &events.Pair{Prompt: &events.Prompt{PairId: "none"}}}}
	for i := range numbers {
		in = append(in, &events.Encoded{Pair: &events.Pair{Prompt: &events.Prompt{PairId: "p", Distance: &numbers[i]}}})
	}
	out, errs := distance.Stage{Metric: "given"}.Process(t.Context(), in)
	for i := range in {
		var reject *schemas.Reject
		if good := i == 1 || i == 2; good != (out[i] != nil) || good == errors.As(errs[i], &reject) {
			t.Errorf("pair %d: %v, %v", i, out[i], errs[i])
		}
	}
	if out[1].GetDistance() != 0.25 || out[1].GetMetric() != "given" || out[1].GetPair() != in[1].GetPair() {
		t.Errorf("scored %v", out[1])
	}
}
