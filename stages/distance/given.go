package distance

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// Given scores pairs by the distances that the data gives them (objective.distance: given); there is no guide then.
type Given struct{}

// Process scores each pair. A pair without a distance, or with one that is negative or not finite, is rejected with reason
// invalid.
func (Given) Process(_ context.Context, in []*events.Pair) ([]*events.Scored, []error) {
	out, errs := make([]*events.Scored, len(in)), make([]error, len(in))
	for i, p := range in {
		d := p.GetPrompt().Distance
		var err error
		switch {
		case d == nil:
			err = errors.New("distance: the data gives none")
		case !(*d >= 0) || math.IsInf(*d, 0):
			err = fmt.Errorf("distance: the data gives %v: it must be finite and at least 0", *d)
		default:
			out[i] = &events.Scored{Schema: events.Version, Pair: p, Distance: *d, Metric: "given"}
			continue
		}
		errs[i] = &schemas.Reject{Reason: schemas.ReasonInvalid, Err: err}
	}
	return out, errs
}
