package runs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
)

// ErrStalled: a run made no progress for longer than its spec allows.
var ErrStalled = errors.New("no progress")

// WatchStall returns ErrStalled, with what the run was waiting for, when it made no progress for streams.stall_after; nil
// when ctx ends before.
func (s *Session) WatchStall(ctx context.Context, spec schemas.Spec, p Pipeline) error {
	limits, err := streams.ParseLimits(spec.Streams)
	if err != nil || limits.StallAfter == 0 {
		return err
	}
	tick := time.NewTicker(min(max(limits.StallAfter/20, 100*time.Millisecond), 15*time.Second))
	defer tick.Stop()
	last, since := "", time.Now()
	warned := map[schemas.Kind]bool{}
	for ticks := 0; ; ticks++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		l, err := s.Liveness(ctx, spec, p)
		if err != nil {
			continue // the server is away: who needs it says so
		}
		for _, full := range l.Full {
			if !warned[full.Log] {
				warned[full.Log] = true
				s.Log.Warn().Str("run", spec.Run).Msg(NearlyFull(full))
			}
		}
		if moves := l.moves(ticks); moves != last || l.Paused() {
			last, since = moves, time.Now()
		}
		if time.Since(since) >= limits.StallAfter {
			return fmt.Errorf("%w of run %s for %v (streams.stall_after): %s. `ldalign status %s` shows every stage; "+
				"when the cause is gone the same command goes on", ErrStalled, spec.Run, limits.StallAfter, l.Because, spec.Run)
		}
	}
}

// moves is a text that changes with every sign of progress of any worker. A stage that the trainer does not wait for may
// give none within a message, so its word that it works counts as one.
func (l Liveness) moves(tick int) string {
	var b strings.Builder
	for _, s := range l.Stages {
		fmt.Fprintf(&b, "%s %d ", s.Stage, s.Lag)
		for _, w := range s.Workers {
			fmt.Fprintf(&b, "%s %d ", w.Worker, w.Moves)
			if !s.feeds && w.State == streams.StateWorking {
				fmt.Fprintf(&b, "at %d ", tick)
			}
		}
	}
	return b.String()
}
