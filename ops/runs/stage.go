package runs

import (
	"slices"
	"time"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/objective"
)

// Trainer is what the trainer calls itself among the stages.
const Trainer = "trainer"

// Stage is what is known of a stage without its code: a row of the pipeline.
type Stage struct {
	// Name in lower-case letters and digits.
	Name string
	// In is the kind of message that it takes, Out the kind that it makes; Out is empty for a stage that makes none.
	In, Out schemas.Kind
	// Batch is how many messages it works on together, Refill how many more it may take meanwhile; nil for 1 and 0.
	Batch, Refill func(schemas.Spec) int
	// Linger is how long a part-filled batch waits for more.
	Linger time.Duration
	// NeedsEngine tells that it computes tensors.
	NeedsEngine bool
	// When tells which runs have the stage, beside those that need its messages; nil for all that have messages for it.
	When func(schemas.Spec) bool
}

// Feeds tells that the stage makes the pairs that the trainer waits for. The others are waited for at the end of a run only.
func (s Stage) Feeds() bool { return s.Out.CarriesPair() }

// of tells whether a run has the stage. The stages of a run make the messages of all kinds up to the one that its trainer
// reads; of a replay, those behind the log that it reads.
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

// Pipeline is the stages in the order in which data flows.
type Pipeline []Stage

// Of is the stages of a run.
func (p Pipeline) Of(spec schemas.Spec) Pipeline {
	return slices.DeleteFunc(slices.Clone(p), func(s Stage) bool { return !s.of(spec) })
}

// Names are those of the stages, in order.
func (p Pipeline) Names() []string {
	names := make([]string, len(p))
	for i, s := range p {
		names[i] = s.Name
	}
	return names
}

// Makes is the name of the stage that makes messages of a kind; empty for none.
func (p Pipeline) Makes(kind schemas.Kind) string {
	if i := slices.IndexFunc(p, func(s Stage) bool { return s.Out == kind }); i >= 0 {
		return p[i].Name
	}
	return ""
}
