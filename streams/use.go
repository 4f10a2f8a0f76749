package streams

import (
	"context"
	"fmt"

	"github.com/ldalign/ldalign/schemas"
)

// Use is how full a kind's stream is.
type Use struct {
	Kind schemas.Kind
	// Bytes are stored, of all runs; Limit is streams.max_bytes, past which the stream refuses what is more.
	Bytes, Limit uint64
}

// nearlyFull is the share of its limit from which a stream is worth a warning.
const nearlyFull = 0.8

// NearlyFull tells that four fifths of the limit are used.
func (u Use) NearlyFull() bool { return u.Limit > 0 && float64(u.Bytes) >= nearlyFull*float64(u.Limit) }

// Uses tells of every stream how full it is, in the order in which data flows.
func (c *Conn) Uses(ctx context.Context) ([]Use, error) {
	var uses []Use
	for _, kind := range schemas.Kinds() {
		stream, err := c.js.Stream(ctx, StreamName(kind))
		if err != nil {
			return nil, fmt.Errorf("streams: how full %s is: %w", kind, err)
		}
		info := stream.CachedInfo()
		uses = append(uses, Use{kind, info.State.Bytes, uint64(max(info.Config.MaxBytes, 0))})
	}
	return uses, nil
}
