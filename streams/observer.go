package streams

import (
	"time"

	"github.com/ldalign/ldalign/schemas"
)

// Outcomes of a message other than becoming a dead letter.
const (
	Done    = "done"
	Retried = "retried"
)

// StageID names a stage of a run.
type StageID struct{ Run, Stage string }

// BatchDone reports one call of Process.
type BatchDone struct {
	StageID
	Messages int
	Took     time.Duration
}

// MessageSettled reports what became of one message. Outcome is Done, Retried, or the reason of a dead letter
// (schemas.Reason…).
type MessageSettled struct {
	StageID
	Iteration uint32
	Outcome   string
}

// Observer receives what a stage does. The stage's goroutine calls its methods, which must not block.
type Observer interface {
	Batch(BatchDone)
	Settled(MessageSettled)
	// Silent reports that the server missed its heartbeats.
	Silent(StageID)
}

type unobserved struct{}

func (unobserved) Batch(BatchDone)        {}
func (unobserved) Settled(MessageSettled) {}
func (unobserved) Silent(StageID)         {}

// id identifies the stage in the observer's events.
func (s Stage) id() StageID { return StageID{s.Run, s.Name} }

// settled tells the observer what became of a message.
func (r *runner) settled(in *input, outcome string) {
	_, _, iteration, _ := schemas.ParseSubject(in.Subject()) // a subject of the stage's own consumer is well-formed
	r.stage.Observer.Settled(MessageSettled{r.stage.id(), iteration, outcome})
}
