// Package telemetry passes the events of stages and trainers to observers, which show or count them. To export events elsewhere,
// implement Observer.
package telemetry

import (
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer/activity"
)

// Observer receives the events of the stages and trainers of runs. Several goroutines call its methods, which must not block.
type Observer interface {
	// The embedded methods receive the events of stages: batches and settled messages.
	streams.Observer
	// Observe receives the events of a trainer.
	Observe(activity.Event)
	Sampled(Sampled)
	Evaluated(Evaluated)
}

// Sampled reports that a generator has sampled Done of the Of responses in its batch.
type Sampled struct {
	streams.StageID
	Done, Of int
}

// Evaluated reports that Done of the Of policies for whose evaluation a run waits are evaluated.
type Evaluated struct {
	Run      string
	Done, Of int
}

// All passes each event to several observers, in order.
type All []Observer

// Batch is part of streams.Observer.
func (a All) Batch(e streams.BatchDone) {
	for _, o := range a {
		o.Batch(e)
	}
}

// Settled is part of streams.Observer.
func (a All) Settled(e streams.MessageSettled) {
	for _, o := range a {
		o.Settled(e)
	}
}

// Silent is part of streams.Observer.
func (a All) Silent(s streams.StageID) {
	for _, o := range a {
		o.Silent(s)
	}
}

// Observe is part of Observer.
func (a All) Observe(e activity.Event) {
	for _, o := range a {
		o.Observe(e)
	}
}

// Sampled is part of Observer.
func (a All) Sampled(e Sampled) {
	for _, o := range a {
		o.Sampled(e)
	}
}

// Evaluated is part of Observer.
func (a All) Evaluated(e Evaluated) {
	for _, o := range a {
		o.Evaluated(e)
	}
}

var _ Observer = All{}
