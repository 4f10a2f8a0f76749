package streams

import (
	"context"
	"fmt"
	"regexp"
	"time"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// Stage declares one stage of one run. Any number of processes may run the same stage; they share its messages.
type Stage struct {
	// Name of the stage, lower-case letters and digits: "generator".
	Name string
	// In is the kind of message that it takes, of all iterations of Run.
	In  schemas.Kind
	Run string
	// Batch is the most messages that Process gets at once. Default 1.
	Batch int
	// Refill is how many messages more a Refilling may take while it works on a batch. Default 0.
	Refill int
	// Linger is how long a part-filled batch waits for more. Default 0: it takes what is there.
	Linger time.Duration
	// Grace is how long work under way may go on when the stage is told to end; then Process's context ends. Default 20
	// s.
	Grace time.Duration
	// Observer is told what happens; nil for none.
	Observer Observer
	// Heartbeat is told what the stage does, and tells it when to pause; nil has RunStage announce it by itself.
	Heartbeat *Heartbeat
	// End is the run's number of iterations: a message of a later one is a dead letter. 0 takes any.
	End uint32

	// MaxInFlight, not nil, bounds what lies before the trainer. Of the pairs that come of a message of an iteration, no more than
	// that many are on the log beyond those that the trainer has taken (TrainerProgress), and the message stays in hand until
	// all are; 0 is no bound. Batch must be 1. That workers died with such a message, which may be in hand for days, tells
	// nothing of it: it becomes no dead letter for that.
	MaxInFlight func(iteration uint32) int

	// Source, not nil in a replay, is where the stage finds most of its messages: in the log of another run. They are
	// adopted, which is to say processed as messages of Run under the ids that they have, and what was written of them
	// stays as it is. Those of Iterations are read; Adopt, if not nil, changes each beside its run.
	Source     *Source
	Iterations []uint32
	Adopt      func(events.Message)
}

// Process is the work of a stage: one outcome for each message, in the same order. It is called by one goroutine. ctx
// ends only when the stage was told to end and its grace is over; whatever then fails is given back unprocessed.
type Process func(ctx context.Context, in []events.Message) []Outcome

// Refilling is a Process that takes more messages while it works, as the places of finished ones get free. more gives
// those that are there now, n at most, and nothing when there are none, when Stage.Refill is used up, or when the stage was
// told to end. Their outcomes follow those of in, in the order in which they were given. So a stage holds no more than it
// works on, and what it has not taken is there for others.
type Refilling func(ctx context.Context, in []events.Message, more func(n int) []events.Message) []Outcome

// Outcome of one message.
type Outcome struct {
	// Out is published, in order and before the message is acknowledged, when Err is nil.
	Out []Emit
	// Err: a *schemas.Reject makes the message a dead letter at once; a *schemas.Unavailable has it given back as if it had not
	// been tried; any other error has it tried again, after a growing pause, until it failed Limits.MaxDeliver times, the
	// last time alone, and is a dead letter for poison.
	Err error
}

// Emit is one message for the stream of a kind.
type Emit struct {
	Kind schemas.Kind
	Msg  events.Message
}

var validStage = regexp.MustCompile(`^[a-z][a-z0-9]{0,30}$`)

func (s Stage) withDefaults() (Stage, error) {
	switch {
	case !validStage.MatchString(s.Name):
		return s, fmt.Errorf("streams: stage name %q is not lower-case letters and digits", s.Name)
	case !schemas.ValidRun(s.Run):
		return s, fmt.Errorf("streams: stage %s: run %q is not a run's name", s.Name, s.Run)
	case newMessage(s.In) == nil:
		return s, fmt.Errorf("streams: stage %s: there is no kind %q", s.Name, s.In)
	case s.Batch < 0 || s.Refill < 0 || s.Linger < 0 || s.Grace < 0:
		return s, fmt.Errorf("streams: stage %s: batch, refill, linger and grace must not be negative", s.Name)
	}
	if err := s.checkSource(); err != nil {
		return s, err
	}
	s.Batch = max(s.Batch, 1)
	if s.MaxInFlight != nil && s.Batch+s.Refill > 1 {
		return s, fmt.Errorf("streams: stage %s: with MaxInFlight a batch is one message, not %d", s.Name, s.Batch+s.Refill)
	}
	if s.Grace == 0 {
		s.Grace = 20 * time.Second
	}
	if s.Observer == nil {
		s.Observer = unobserved{}
	}
	return s, nil
}

// beyond tells that a message is of an iteration that the run does not have. Pairs belong to the iteration that is
// trained from them, checkpoints also to the one that follows the last.
func (s Stage) beyond(m events.Message) bool {
	i := m.GetIteration()
	return s.End > 0 && (i > s.End || i == s.End && s.In.CarriesPair())
}
