package runs

import (
	"context"
	"errors"
	"time"
)

// leaseTTL is how long the lease of a dead process keeps a trainer from starting.
const leaseTTL = 10 * time.Second

// holding calls f while this process holds the lease of a run, so that no trainer can work on the run.
func holding(ctx context.Context, s *Session, run string, f func() error) (err error) {
	lease, err := s.Streams.AcquireLease(ctx, run, Holder(), leaseTTL)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lease.Release()) }()
	return f()
}
