// Package nothing is a stage that looks at pairs and does nothing, for tests of what a stage costs: one package, and one row of
// the pipeline.
package nothing

import (
	"context"

	"github.com/ldalign/ldalign/schemas/events"
)

// Process makes no message of each pair.
func Process(_ context.Context, in []*events.Pair) ([][]events.Message, []error) {
	return make([][]events.Message, len(in)), make([]error, len(in))
}
