package ledger

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
)

// Count is the number of messages that the streams hold of one iteration. It costs only a few requests to the server, however
// many messages there are. It counts messages, while a Balance counts pairs: a message that was stored again or redriven counts
// twice.
type Count struct {
	Iteration uint32 `json:"iteration"`
	// Closed reports that all prompts of the iteration are published. Total is then their number.
	Closed  bool `json:"closed"`
	Total   int  `json:"total"`
	Prompts int  `json:"prompts"`
	Pairs   int  `json:"pairs"`
	Encoded int  `json:"encoded"`
	Scored  int  `json:"scored"`
	Dead    int  `json:"dead"`
	// Expired reports that the run's retention has removed messages of the iteration.
	Expired bool `json:"expired,omitempty"`
}

// Counts counts the messages of each iteration of a run, in order.
func Counts(ctx context.Context, conn *streams.Conn, run string) ([]Count, error) {
	counts := map[uint32]*Count{}
	page := func(iteration uint32) *Count {
		if counts[iteration] == nil {
			counts[iteration] = &Count{Iteration: iteration}
		}
		return counts[iteration]
	}
	for _, kind := range append(schemas.PairKinds(), schemas.DeadLetters) {
		state, err := conn.State(ctx, kind, run)
		if err != nil {
			return nil, fmt.Errorf("streams: count %s of run %s: %w", kind, run, err)
		}
		for iteration, n := range state.Messages {
			*page(iteration).of(kind) = int(n)
		}
	}
	err := conn.Read(ctx, schemas.Control, run, streams.AllIterations, 0, func(r streams.Received) error {
		switch m := r.Message.(*events.Control); m.GetKind() {
		case events.ControlClosed:
			count := page(m.GetIteration())
			count.Closed, count.Total = true, int(m.GetTotal())
		case events.ControlExpired:
			page(m.GetIteration()).Expired = true
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("streams: count run %s: %w", run, err)
	}
	out := make([]Count, 0, len(counts))
	for _, iteration := range slices.Sorted(maps.Keys(counts)) {
		out = append(out, *counts[iteration])
	}
	return out, nil
}

func (c *Count) of(kind schemas.Kind) *int {
	switch kind {
	case schemas.Prompts:
		return &c.Prompts
	case schemas.Pairs:
		return &c.Pairs
	case schemas.Encoded:
		return &c.Encoded
	case schemas.Scored:
		return &c.Scored
	default:
		return &c.Dead
	}
}
