// Package intake makes the examples of an iteration from the log: it waits until the iteration is complete, puts pairs into
// the prompter's order, weighs them, and mixes in those of the iteration before. By the streaming schedule it brings pairs in
// the log's order while they arrive.
package intake

import (
	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/models/tokenizer"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer/activity"
	"github.com/ldalign/ldalign/trainer/lineage"
	"github.com/ldalign/ldalign/trainer/loop"
	"github.com/ldalign/ldalign/trainer/task"
)

// Reader reads iterations of a run.
type Reader struct {
	Spec        schemas.Spec
	Streams     *streams.Conn
	Checkpoints *checkpoints.Repository
	Engine      *tensor.Engine
	// Model is the policy in training, and Format that of its prompts and responses.
	Model  *models.Model
	Format *tokenizer.Format
	// Base is the policy that the iteration starts from.
	Base checkpoints.Manifest
	// Resume is the state that the run goes on from; nil when there is none newer than Base.
	Resume *checkpoints.Manifest
	// Observe is told what the reader waits for.
	Observe func(activity.Event)
	Log     zerolog.Logger
}

// Iteration is an iteration as it was read from the log, so far.
type Iteration struct {
	reader *Reader
	kind   schemas.Kind
	number uint32
	// inflow brings more; nil when all is there.
	inflow *inflow
	task   task.Task
	// distances of the task's pairs, and the number of those that were cut.
	distances []float64
	cut       int
	// batches has the ids of the task's examples, in their order, and of what was left out; no steps.
	batches checkpoints.Batches
	// reported is the progress that was reported last: of how many pairs the log knows that they are taken.
	reported int
	// upTo is the sequence of the last message.
	upTo uint64
	// planned is the number of pairs that the iteration has, those that died included; 0 until that is known.
	planned  int
	complete bool // inflow has brought all
	metrics  []checkpoints.Metric
}

// Task is the iteration's task. By the streaming schedule its examples are still to come.
func (in *Iteration) Task() task.Task { return in.task }

// Batches has the ids of the task's examples and of what was left out; no steps.
func (in *Iteration) Batches() checkpoints.Batches { return in.batches }

// Metrics are what the policy's manifest says about the pairs.
func (in *Iteration) Metrics() []checkpoints.Metric { return in.metrics }

// Planned is the number of examples that the learning rate's schedule is made for; 0 for those that are there.
func (in *Iteration) Planned() int { return in.planned }

// Arrivals brings the examples that are still to come; nil when all are there.
func (in *Iteration) Arrivals() loop.Arrivals {
	if in.inflow == nil {
		return nil
	}
	return in
}

// Read says how far the log is read.
func (in *Iteration) Read() (stream string, sequence uint64) {
	feed, _ := lineage.Feed(in.reader.Spec, in.kind)
	return string(feed.Kind), in.upTo
}

// Close ends the reading of what is still to come.
func (in *Iteration) Close() { in.inflow.close() }

// resumes tells whether the state to go on from was saved in this phase of this iteration.
func (r *Reader) resumes(phase string, iteration uint32) bool {
	return r.Resume != nil && r.Resume.Cursor.Phase == phase && r.Resume.Cursor.Iteration == iteration
}

// streaming tells whether an iteration is trained in the order of its log, while it arrives.
func (r *Reader) streaming() bool { return r.Spec.Training.Schedule == "streaming" }

// work is how far something is done, for an event.
func (r *Reader) work(phase string, iteration uint32, done, total int) activity.Work {
	return activity.Work{Run: r.Spec.Run, Phase: phase, Iteration: iteration, Done: done, Total: total}
}
