// Package activity defines the events that report a trainer's work. Each names the run, phase and iteration, and how much
// of the work is done; String and Unit are for display. It needs no tensors.
package activity

import (
	"fmt"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/curves"
)

// Event is Waiting, Reading, Referring, Training or StoreAway.
type Event interface {
	// Progress is the work, and how much of it is done.
	Progress() Work
	// String names the work, the same for all events of one piece of work in a run: "train ldalign 0".
	fmt.Stringer
	// Unit is the plural of what Done and Total count.
	Unit() string
}

// Work is which piece of work an event is about, and how much of it is done.
type Work struct {
	Run string
	// Phase is schedule.Policy or schedule.Guide.
	Phase     string
	Iteration uint32
	// Total is 0 while it is not known.
	Done, Total int
}

// Progress is w; embedding a Work makes it part of an event.
func (w Work) Progress() Work { return w }

// Ended reports whether all of the work is done.
func (w Work) Ended() bool { return w.Total > 0 && w.Done >= w.Total }

// Waiting reports how many pairs of an iteration are on the log or dead, while the trainer waits for the others.
type Waiting struct {
	Work
	// Kind is the kind of the messages.
	Kind schemas.Kind
}

func (e Waiting) String() string { return fmt.Sprintf("wait for %s %d", e.Kind, e.Iteration) }

// Unit is pairs.
func (Waiting) Unit() string { return "pairs" }

// Reading reports how many older pairs the trainer has read from a log: the pairs that a state was trained on, or the pairs
// of another run.
type Reading struct {
	Work
	// Kind is the kind of the messages.
	Kind schemas.Kind
	// Source is the other run whose log is read; empty for the run's own log.
	Source string
}

func (e Reading) String() string {
	if e.Source == "" {
		return fmt.Sprintf("read back %s %d", e.Kind, e.Iteration)
	}
	return fmt.Sprintf("read %s %d of %s", e.Kind, e.Iteration, e.Source)
}

// Unit is pairs.
func (Reading) Unit() string { return "pairs" }

// Referring reports for how many pairs of the previous iteration the reference log-probs have been computed again.
type Referring struct{ Work }

func (e Referring) String() string { return fmt.Sprintf("refer %d", e.Iteration) }

// Unit is pairs.
func (Referring) Unit() string { return "pairs" }

// StoreAway reports a failed try to reach the checkpoint store, which the trainer repeats. It ends when the store answers again.
type StoreAway struct {
	Work
	// Err is nil at the end.
	Err error
}

func (StoreAway) String() string { return "wait for the checkpoint store" }

// Unit is answers.
func (StoreAway) Unit() string { return "answers" }

// Training reports how many optimizer steps of a phase have been made.
type Training struct {
	Work
	// Objective is the spec's objective.kind, or guide.
	Objective string
	// Last is the newest step; nil when the phase begins or resumes.
	Last *curves.Step
	// Probe is the newest probe of the guide; nil if this process has made none in this phase.
	Probe *curves.Probe
}

func (e Training) String() string {
	if e.Objective == "guide" {
		return "train guide"
	}
	return fmt.Sprintf("train %s %d", e.Objective, e.Iteration)
}

// Unit is steps.
func (Training) Unit() string { return "steps" }
