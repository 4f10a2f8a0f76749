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

// ErrStalled reports that a run made no progress for longer than its spec allows.
var ErrStalled = errors.New("no progress")

// WatchStall watches a run until ctx ends, and then returns nil. If the run makes no progress for streams.stall_after, it returns
// an ErrStalled that says what the run was waiting for.
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
			continue // the server does not answer: the stages and the trainer report that
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
				"fix the cause, then run the same command to continue", ErrStalled, spec.Run, limits.StallAfter, l.Because, spec.Run)
		}
	}
}

// moves returns a text that changes with every sign of progress of any worker. A stage that makes no pairs may show no progress
// during a long message. While such a stage reports that it is working, each tick counts as progress.
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
