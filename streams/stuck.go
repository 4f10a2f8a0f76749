package streams

import (
	"fmt"
	"time"
)

// watch returns the function that a batch calls every d to find out whether the worker makes progress. Progress is what the
// heartbeat is told of, and what Stage.Moves counts. A worker that has made none for Limits.StuckAfter is stuck: it may hang, and
// other workers should have its messages.
//
// Only calls count, so a process that was suspended is not stuck. Neither is a worker that waits for a lost connection.
func (r *runner) watch(d time.Duration) func(held int) bool {
	var last uint64
	var still time.Duration
	return func(held int) bool {
		limit := r.limits.StuckAfter
		was := still >= limit
		if moves := r.moves(); moves != last || !r.nc.IsConnected() {
			last, still = moves, 0
		} else {
			still += d
		}
		stuck := still >= limit
		switch {
		case stuck && !was:
			r.log.Error().Int("messages", held).Dur("stuck_after", limit).
				Msg("the stage makes no progress: other workers get its messages. If it hangs, stop this worker; " +
					"if a step may take that long, raise streams.stuck_after")
			r.heartbeat.set(StateStuck, fmt.Sprintf("no progress for %v on %d %s, which other workers now get", limit, held, r.stage.In))
		case was && !stuck:
			r.log.Warn().Int("messages", held).Msg("the stage makes progress again")
			r.heartbeat.set(StateWorking, fmt.Sprintf("on %d %s, which other workers may have too", held, r.stage.In))
		}
		return !stuck
	}
}

// moves grows with every sign of progress.
func (r *runner) moves() uint64 {
	n := r.heartbeat.signs()
	if r.stage.Moves != nil {
		n += r.stage.Moves()
	}
	return n
}
