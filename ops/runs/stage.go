package runs

import (
	"slices"
	"time"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/objective"
)

// Trainer is the name of the trainer where it is listed with the stages.
const Trainer = "trainer"

// Stage describes a stage without its code.
type Stage struct {
	// Name in lower-case letters and digits.
	Name string
	// In is the kind of message that the stage takes, Out the kind that it makes; Out is empty for a stage that makes none.
	In, Out schemas.Kind
	// Batch is how many messages the stage works on together (nil for 1). Refill is how many more it may take meanwhile (nil for 0).
	Batch, Refill func(schemas.Spec) int
	// Linger is how long a part-filled batch waits for more.
	Linger time.Duration
	// NeedsEngine says that the stage computes tensors.
	NeedsEngine bool
	// When is a condition that a run's spec must meet for the run to have the stage; nil for none.
	When func(schemas.Spec) bool
}

// Feeds reports whether the stage makes pairs, for which the trainer waits. A run waits for other stages only at its end.
func (s Stage) Feeds() bool { return s.Out.CarriesPair() }

// of reports whether a run has the stage. The stages of a run make the messages of all kinds up to the one that its trainer
// reads. A replay has only the stages after the log that it reads.
func (s Stage) of(spec schemas.Spec) bool {
	if s.When != nil && !s.When(spec) {
		return false
	}
	for _, kind := range []schemas.Kind{s.In, s.Out} {
		if !kind.CarriesPair() {
			continue
		}
		if objective.TrainsFrom(spec.Objective.Kind).Before(kind) {
			return false
		}
		if _, replayed := spec.ReadsFrom(kind); replayed && (kind == s.Out || !s.Feeds()) {
			return false
		}
	}
	return true
}

// Pipeline lists the stages in the order in which data flows.
type Pipeline []Stage

// Of returns the stages of a run.
func (p Pipeline) Of(spec schemas.Spec) Pipeline {
	return slices.DeleteFunc(slices.Clone(p), func(s Stage) bool { return !s.of(spec) })
}

// Names returns the names of the stages, in order.
func (p Pipeline) Names() []string {
	names := make([]string, len(p))
	for i, s := range p {
		names[i] = s.Name
	}
	return names
}

// Makes returns the name of the stage that makes messages of a kind; empty for none.
func (p Pipeline) Makes(kind schemas.Kind) string {
	if i := slices.IndexFunc(p, func(s Stage) bool { return s.Out == kind }); i >= 0 {
		return p[i].Name
	}
	return ""
}
