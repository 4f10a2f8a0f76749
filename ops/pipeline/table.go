// Package pipeline has the table of ldalign's stages, and a Player that runs a stage of the table. The trainer is not a stage;
// package play runs it.
package pipeline

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
)

// Row is a stage of the pipeline: its description, and the function that builds it.
type Row struct {
	runs.Stage
	// Build makes the stage for a run. In a program that is built without tensors it is nil for stages that compute tensors.
	Build func(context.Context, Job) (Work, error)
}

// Table lists the stages in the order in which data flows. Workers, status, plans and help texts are derived from it.
type Table []Row

// Default returns the pipeline of ldalign.
func Default() Table {
	slots := func(s schemas.Spec) int { return s.Generation.Slots }
	times := func(n int) func(schemas.Spec) int { return func(s schemas.Spec) int { return n * slots(s) } }
	evaluates := func(s schemas.Spec) bool { return s.Data.Eval != "" }
	return Table{
		{runs.Stage{Name: "prompter", In: schemas.Checkpoints, Out: schemas.Prompts}, buildPrompter},
		{runs.Stage{
			Name: "generator", In: schemas.Prompts, Out: schemas.Pairs, Batch: slots, Refill: times(7),
			Linger: 100 * time.Millisecond, NeedsEngine: true,
		}, buildGenerator},
		{runs.Stage{Name: "encoder", In: schemas.Pairs, Out: schemas.Encoded, Batch: times(4), NeedsEngine: true}, buildEncoder},
		{runs.Stage{Name: "distance", In: schemas.Encoded, Out: schemas.Scored, Batch: fixed(256)}, buildDistance},
		{runs.Stage{
			Name: "evaluator", In: schemas.Checkpoints, Out: schemas.Results, NeedsEngine: true, When: evaluates,
		}, buildEvaluator},
	}
}

func fixed(n int) func(schemas.Spec) int { return func(schemas.Spec) int { return n } }

// Stages returns the descriptions of the stages.
func (t Table) Stages() runs.Pipeline {
	stages := make(runs.Pipeline, len(t))
	for i, row := range t {
		stages[i] = row.Stage
	}
	return stages
}

// Of returns the stages that a run has.
func (t Table) Of(spec schemas.Spec) Table {
	names := t.Stages().Of(spec).Names()
	return slices.DeleteFunc(slices.Clone(t), func(r Row) bool { return !slices.Contains(names, r.Name) })
}

// For returns the stage of a name, for a worker of a run. It returns runs.ErrSettings if there is no such stage, or if the run is
// a replay without it: a worker would then write messages that the replay reads from its source.
func (t Table) For(spec schemas.Spec, name string) (Row, error) {
	row, ok := t.row(name)
	if !ok {
		return row, fmt.Errorf("%w: there is no stage %q", runs.ErrSettings, name)
	}
	if _, has := t.Of(spec).row(name); !has && spec.Replays() {
		return row, fmt.Errorf("%w: run %s replays %s of run %s, so it has no %s", runs.ErrSettings, spec.Run, spec.Source.From,
			spec.Source.Run, name)
	}
	return row, nil
}

func (t Table) row(name string) (Row, bool) {
	i := slices.IndexFunc(t, func(r Row) bool { return r.Name == name })
	if i < 0 {
		return Row{}, false
	}
	return t[i], true
}

// Job is what Row.Build needs to build a stage.
type Job struct {
	Spec        schemas.Spec
	Streams     *streams.Conn
	Checkpoints *checkpoints.Repository
	// Engine may be nil for a stage that needs none.
	Engine *Engine
	Log    zerolog.Logger
	// Sampled is called with the number of a batch's responses that are sampled.
	Sampled func(done, of int)
}

// Work is a built stage. One of Process and Refilling is set.
type Work struct {
	Process   streams.Process
	Refilling streams.Refilling
	// Ready, if not nil, waits for what the stage needs before its first message; WaitsFor says what that is. It ends as soon as its
	// ctx ends, whereas a stage that waits while it processes a message delays the shutdown by the grace period.
	Ready    func(context.Context) error
	WaitsFor string
	// Close, if not nil, frees the stage's resources.
	Close func(context.Context) error
	// MaxInFlight is streams.Stage's MaxInFlight.
	MaxInFlight func(iteration uint32) int
	// Libtorch is streams.Stage's Libtorch.
	Libtorch string
	// Adopt is set for a stage whose input messages name a policy. In a replay, the messages of an iteration wait for the replay's
	// own policy, and Adopt changes each message to name that policy.
	Adopt func(m events.Message, iteration uint32, policy string)
}
