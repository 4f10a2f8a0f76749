// Package activity holds the events by which a trainer tells what it does. Each says of which run, phase and iteration it
// is and how far the work has come; String and Unit are for showing it to a person. It needs no tensors.
package activity

import (
	"fmt"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/curves"
)

// Event is Waiting, Reading, Referring or Training.
type Event interface {
	// Progress is where the work stands.
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

// Ended tells whether all of the work is done.
func (w Work) Ended() bool { return w.Total > 0 && w.Done >= w.Total }

// Waiting says how many pairs of an iteration are accounted for on the log while the trainer waits for the others.
type Waiting struct {
	Work
	// Kind is that of the messages.
	Kind schemas.Kind
}

func (e Waiting) String() string { return fmt.Sprintf("wait for %s %d", e.Kind, e.Iteration) }

// Unit is pairs.
func (Waiting) Unit() string { return "pairs" }

// Reading says how many pairs are read back that the log has had for long: those that a state was trained on, or those of
// another run.
type Reading struct {
	Work
	// Kind is that of the messages.
	Kind schemas.Kind
	// Source is the run whose log it is; empty for the run's own.
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

// Referring says for how many pairs of the iteration before the reference log-probs are computed anew.
type Referring struct{ Work }

func (e Referring) String() string { return fmt.Sprintf("refer %d", e.Iteration) }

// Unit is pairs.
func (Referring) Unit() string { return "pairs" }

// Training says how many optimizer steps of a phase are made.
type Training struct {
	Work
	// Objective is the spec's objective.kind, or guide.
	Objective string
	// Last is the newest step; nil as the phase begins or goes on.
	Last *curves.Step
	// Probe is the newest look at the guide; nil when none was taken in this phase by this process.
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
