// Package distance is the stage that measures s, the latent distance between the chosen and the rejected response. The
// trainer divides s by the normaliser, so that a replay can choose another normaliser without scoring again.
package distance

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// Between is the distance of two latents of equal length, in float64:
//
//	l2          ||a - b||                 (the paper's)
//	l2_squared  ||a - b||^2
//	cosine      1 - a.b / (||a|| ||b||)   (0 when either is zero)
//
// It fails on other metrics, on unequal or empty latents, and on numbers that are not finite.
func Between(metric string, a, b []float32) (float64, error) {
	if len(a) == 0 || len(a) != len(b) {
		return 0, fmt.Errorf("distance: the latents have %d and %d numbers", len(a), len(b))
	}
	var squares, dot, aa, bb float64
	for i := range a {
		x, y := float64(a[i]), float64(b[i])
		squares += (x - y) * (x - y)
		dot += x * y
		aa += x * x
		bb += y * y
	}
	if math.IsNaN(squares) || math.IsInf(squares, 0) { // squares of float32 numbers fit into a float64
		return 0, errors.New("distance: a latent is not finite")
	}
	var s float64
	switch metric {
	case "l2":
		s = math.Sqrt(squares)
	case "l2_squared":
		s = squares
	case "cosine":
		if aa > 0 && bb > 0 && squares > 0 {
			s = math.Max(0, 1-dot/math.Sqrt(aa*bb))
		}
	default:
		return 0, fmt.Errorf("distance: unknown metric %q (l2, l2_squared or cosine)", metric)
	}
	return s, nil
}

// Stage scores encoded pairs with a metric of Between, or with the distances in the data (given).
type Stage struct{ Metric string }

// distance of one pair.
func (s Stage) distance(m *events.Encoded) (float64, error) {
	if s.Metric != "given" {
		return Between(s.Metric, m.GetChosenLatent(), m.GetRejectedLatent())
	}
	d := m.GetPair().GetPrompt().Distance
	switch {
	case d == nil:
		return 0, errors.New("distance: the data has no distance for this pair")
	case !(*d >= 0) || math.IsInf(*d, 0):
		return 0, fmt.Errorf("distance: the distance in the data is %v: it must be finite and at least 0", *d)
	}
	return *d, nil
}

// Process scores each pair. A pair whose distance is not defined is rejected with reason invalid.
func (s Stage) Process(_ context.Context, in []*events.Encoded) ([]*events.Scored, []error) {
	out, errs := make([]*events.Scored, len(in)), make([]error, len(in))
	for i, m := range in {
		d, err := s.distance(m)
		if err != nil {
			errs[i] = &schemas.Reject{Reason: schemas.ReasonInvalid, Err: err}
			continue
		}
		out[i] = &events.Scored{
			Schema: events.Version, Pair: m.GetPair(), Distance: d, Metric: s.Metric, Guide: m.GetGuide(),
		}
	}
	return out, errs
}
