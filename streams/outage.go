package streams

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ldalign/ldalign/schemas"
)

// holdTries is how often a stage that is unable to work tries again before it gives its messages back to other processes. The
// pauses double, so it holds them for 15 s with the default Limits.Retry. Each return counts as a delivery; holding the messages
// keeps an outage of minutes from making them suspects.
const holdTries = 4

// unable returns the first *schemas.Unavailable among the outcomes, or nil: the stage cannot work, whatever the message.
func unable(outcomes []Outcome) *schemas.Unavailable {
	for _, o := range outcomes {
		if u := new(schemas.Unavailable); errors.As(o.Err, &u) {
			return u
		}
	}
	return nil
}

// wait pauses because the stage cannot work, and reports whether to give the whole batch back, including the messages that
// were processed: processing them again stores the same outputs. It returns an error when the cause is permanent.
func (r *runner) wait(work context.Context, cause *schemas.Unavailable, in []*input, try int) (giveUp bool, err error) {
	if cause.Permanent {
		return true, fmt.Errorf("streams: stage %s of run %s stops and gives its messages back: %w",
			r.stage.Name, r.stage.Run, cause.Err)
	}
	r.log.Warn().Err(cause.Err).Int("messages", len(in)).Int("try", try).
		Msg("the stage cannot work now: waiting (no try of its messages is counted)")
	r.heartbeat.Say(StateWaiting, text(cause.Err, maxDetail))
	if try > holdTries {
		for _, one := range in {
			r.settled(one, Retried)
		}
	}
	timer := time.NewTimer(r.limits.backoff(try))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-work.Done():
	case <-r.ending:
		return true, nil
	}
	return try > holdTries, nil
}
