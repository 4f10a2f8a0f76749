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
	// In is the kind of message that the stage takes, from all iterations of Run.
	In  schemas.Kind
	Run string
	// Batch is the maximum number of messages that Process gets at once. Default 1.
	Batch int
	// Refill is how many more messages a Refilling may take while it works on a batch. Default 0.
	Refill int
	// Linger is how long a partly filled batch waits for more messages. Default 0: the batch takes what is there.
	Linger time.Duration
	// Grace is how long Process may continue after RunStage's context has ended; then Process's own context ends. Default 20 s.
	Grace time.Duration
	// Observer is called when a batch is processed and a message is settled; nil for none.
	Observer Observer
	// Moves, if not nil, returns a number that grows while Process makes progress within a message. It is called from any goroutine.
	Moves func() uint64
	// Heartbeat publishes what the stage does and tells it when to pause. When it is nil, RunStage calls Announce.
	Heartbeat *Heartbeat
	// Libtorch is the version of libtorch that computes the outputs, which are stored with it; empty for a stage without tensors.
	Libtorch string
	// End is the run's number of iterations. A message of a later iteration becomes a dead letter. 0 means no bound.
	End uint32

	// MaxInFlight, if not nil, bounds how many pairs of an iteration are published ahead of the trainer: at most that many more
	// than the trainer has taken (TrainerProgress). 0 means no bound. The stage holds the input message until all its outputs
	// are published, which may take days. Batch must be 1. Worker deaths do not count as tries of such a message.
	MaxInFlight func(iteration uint32) int

	// Source is set in a replay. It is the part of another run's log from which the stage reads the messages of Iterations. The
	// stage adopts them: it processes them as messages of Run under their own ids, and leaves the source's log unchanged. Adopt,
	// if not nil, may change each adopted message further.
	Source     *Source
	Iterations []uint32
	Adopt      func(events.Message)
}

// Process does the work of a stage. It returns one outcome for each message, in the same order. One goroutine calls it. Its ctx
// ends Stage.Grace after RunStage's context has ended; messages that fail after that are given back, and no try is counted.
type Process func(ctx context.Context, in []events.Message) []Outcome

// Refilling is a Process that takes more messages while it works, whenever it has finished some. more returns at most n messages
// that are available now. It returns none when the log has none, when Stage.Refill is used up, or when RunStage's context has
// ended. The outcomes of these messages follow those of in, in the order in which more returned them. So a worker holds only the
// messages that it works on, and leaves the others to other workers.
type Refilling func(ctx context.Context, in []events.Message, more func(n int) []events.Message) []Outcome

// Outcome is the result of processing one message.
type Outcome struct {
	// Out is published in order before the message is acknowledged. It is ignored when Err is not nil.
	Out []Emit
	// Err decides what happens to a message that failed. A *schemas.Reject makes it a dead letter at once. A
	// *schemas.Unavailable gives it back and counts no try. After any other error it is tried again after a growing pause. When
	// it has failed Limits.MaxDeliver times, the last time alone, it becomes a dead letter with schemas.ReasonPoison.
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
		return s, fmt.Errorf("streams: stage %s: %q is not a valid run name", s.Name, s.Run)
	case newMessage(s.In) == nil:
		return s, fmt.Errorf("streams: stage %s: unknown kind %q", s.Name, s.In)
	case s.Batch < 0 || s.Refill < 0 || s.Linger < 0 || s.Grace < 0:
		return s, fmt.Errorf("streams: stage %s: batch, refill, linger and grace must not be negative", s.Name)
	}
	if err := s.checkSource(); err != nil {
		return s, err
	}
	s.Batch = max(s.Batch, 1)
	if s.MaxInFlight != nil && s.Batch+s.Refill > 1 {
		return s, fmt.Errorf("streams: stage %s: with MaxInFlight a batch must be one message, not %d", s.Name, s.Batch+s.Refill)
	}
	if s.Grace == 0 {
		s.Grace = 20 * time.Second
	}
	if s.Observer == nil {
		s.Observer = unobserved{}
	}
	return s, nil
}

// beyond reports whether a message is of an iteration that the run does not have. The last pairs belong to iteration End-1; a
// checkpoint may also belong to iteration End.
func (s Stage) beyond(m events.Message) bool {
	i := m.GetIteration()
	return s.End > 0 && (i > s.End || i == s.End && s.In.CarriesPair())
}
