// Package telemetry carries what stages and trainers tell of their work to those who show or count it. An exporter is one more
// Observer.
package telemetry

import (
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer/activity"
)

// Observer is told what the stages and the trainers of runs do, by several goroutines. Its methods must not block.
type Observer interface {
	// Stages do batches and settle messages.
	streams.Observer
	// Observe is told what a trainer does.
	Observe(activity.Event)
	Sampled(Sampled)
	Evaluated(Evaluated)
}

// Sampled says that Done of the Of responses in a generator's batch are sampled.
type Sampled struct {
	streams.StageID
	Done, Of int
}

// Evaluated says that Done of the Of policies of a run whose evaluation is waited for are evaluated.
type Evaluated struct {
	Run      string
	Done, Of int
}

// All tells each of several observers everything, in their order.
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
