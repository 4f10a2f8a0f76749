package streams

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ldalign/ldalign/schemas"
)

// holdTries is how often a stage that is unable tries again with the messages in hand, before it gives them back for
// another process to try. Pauses double, so that is 15 s with the default Limits.Retry; and as each return counts as a
// delivery, an outage of minutes does not make suspects of messages.
const holdTries = 4

// unable is the first outcome that says that the stage cannot work, whatever the message.
func unable(outcomes []Outcome) *schemas.Unavailable {
	for _, o := range outcomes {
		if u := new(schemas.Unavailable); errors.As(o.Err, &u) {
			return u
		}
	}
	return nil
}

// wait pauses because the stage cannot work, and tells whether to give the batch back: messages that it has worked on
// too, for doing them again stores the same. The error is that of a stage that will not get well.
func (r *runner) wait(work context.Context, cause *schemas.Unavailable, in []*input, try int) (giveUp bool, err error) {
	if cause.Permanent {
		return true, fmt.Errorf("streams: stage %s of run %s gives its work back and ends: %w", r.stage.Name, r.stage.Run, cause.Err)
	}
	r.log.Warn().Err(cause.Err).Int("messages", len(in)).Int("try", try).
		Msg("cannot work now, through no fault of the messages: waiting")
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
