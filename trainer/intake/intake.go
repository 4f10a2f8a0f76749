// Package intake makes the examples of an iteration from the log. It waits until the iteration is complete, puts the pairs
// into the prompter's order, computes their weights, and mixes in the pairs of the previous iteration. With the streaming
// schedule it delivers pairs in the log's order while they arrive.
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
	// Model is the policy that is trained, and Format the format of its prompts and responses.
	Model  *models.Model
	Format *tokenizer.Format
	// Base is the policy that the iteration starts from.
	Base checkpoints.Manifest
	// Resume is the state that the run resumes from; nil if there is none newer than Base.
	Resume *checkpoints.Manifest
	// Observe receives events about what the reader waits for.
	Observe func(activity.Event)
	Log     zerolog.Logger
}

// Iteration is an iteration, as far as it has been read from the log.
type Iteration struct {
	reader *Reader
	kind   schemas.Kind
	number uint32
	// inflow reads further messages; nil if all have been read.
	inflow *inflow
	task   task.Task
	// distances are those of the task's pairs. cut is the number of pairs whose texts were cut.
	distances []float64
	cut       int
	// batches has the ids of the task's examples, in their order, and of those left out. It has no steps.
	batches checkpoints.Batches
	// reported is the number of pairs in the last progress report, see report.
	reported int
	// upTo is the sequence of the last message.
	upTo uint64
	// planned is the number of pairs of the iteration, including those that died; 0 until it is known.
	planned  int
	complete bool // inflow has read all
	metrics  []checkpoints.Metric
}

// Task returns the iteration's task. With the streaming schedule its examples arrive later.
func (in *Iteration) Task() task.Task { return in.task }

// Batches returns the ids of the task's examples and of those left out. It has no steps.
func (in *Iteration) Batches() checkpoints.Batches { return in.batches }

// Metrics returns the metrics of the pairs for the policy's manifest.
func (in *Iteration) Metrics() []checkpoints.Metric { return in.metrics }

// Planned returns the number of examples that the learning-rate schedule is made for; 0 means the number in the task.
func (in *Iteration) Planned() int { return in.planned }

// Arrivals delivers the examples that have not arrived yet; nil if the task has all.
func (in *Iteration) Arrivals() loop.Arrivals {
	if in.inflow == nil {
		return nil
	}
	return in
}

// Read returns how far the log has been read.
func (in *Iteration) Read() (stream string, sequence uint64) {
	feed, _ := lineage.Feed(in.reader.Spec, in.kind)
	return string(feed.Kind), in.upTo
}

// Close stops reading the log.
func (in *Iteration) Close() { in.inflow.close() }

// resumes reports whether the state to resume from was saved in this phase of this iteration.
func (r *Reader) resumes(phase string, iteration uint32) bool {
	return r.Resume != nil && r.Resume.Cursor.Phase == phase && r.Resume.Cursor.Iteration == iteration
}

// streaming reports whether an iteration is trained while it arrives, in the order of its log.
func (r *Reader) streaming() bool { return r.Spec.Training.Schedule == "streaming" }

// work describes a piece of work for an event.
func (r *Reader) work(phase string, iteration uint32, done, total int) activity.Work {
	return activity.Work{Run: r.Spec.Run, Phase: phase, Iteration: iteration, Done: done, Total: total}
}
