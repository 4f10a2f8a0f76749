package streams

import (
	"time"

	"github.com/ldalign/ldalign/schemas"
)

// What becomes of a message, apart from the reasons of dead letters.
const (
	Done    = "done"
	Retried = "retried"
)

// StageID names a stage of a run.
type StageID struct{ Run, Stage string }

// BatchDone says that Process worked on messages together.
type BatchDone struct {
	StageID
	Messages int
	Took     time.Duration
}

// MessageSettled says that one message is Done, Retried, or a dead letter for a reason (schemas.Reason…).
type MessageSettled struct {
	StageID
	Iteration uint32
	Outcome   string
}

// Observer is told what a stage does. Its methods are called by the stage's goroutine and must not block.
type Observer interface {
	Batch(BatchDone)
	Settled(MessageSettled)
	// Silent: the server missed its heartbeats.
	Silent(StageID)
}

type unobserved struct{}

func (unobserved) Batch(BatchDone)        {}
func (unobserved) Settled(MessageSettled) {}
func (unobserved) Silent(StageID)         {}

// id names the stage to its observer.
func (s Stage) id() StageID { return StageID{s.Run, s.Name} }

// settled tells the observer what became of a message.
func (r *runner) settled(in *input, outcome string) {
	_, _, iteration, _ := schemas.ParseSubject(in.Subject()) // a subject of the stage's own consumer is well-formed
	r.stage.Observer.Settled(MessageSettled{r.stage.id(), iteration, outcome})
}
