// Package pipeline is the stages of ldalign as one table, and the playing of a stage by its row. The trainer is no stage; package
// play adds it.
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

// Row is a stage of the pipeline: what is known of it, and how it is built.
type Row struct {
	runs.Stage
	// Build makes the stage for a run. It is nil in a program that was built without tensors, for the stages that compute some.
	Build func(context.Context, Job) (Work, error)
}

// Table is the stages in the order in which data flows. Roles, status, plans and help texts follow from it.
type Table []Row

// Default is the pipeline of ldalign.
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

// Stages are the rows without their code.
func (t Table) Stages() runs.Pipeline {
	stages := make(runs.Pipeline, len(t))
	for i, row := range t {
		stages[i] = row.Stage
	}
	return stages
}

// Of is the stages that a run has.
func (t Table) Of(spec schemas.Spec) Table {
	names := t.Stages().Of(spec).Names()
	return slices.DeleteFunc(slices.Clone(t), func(r Row) bool { return !slices.Contains(names, r.Name) })
}

// For is the stage of a name, for a worker of a run. It refuses one that a replay does not have: its worker would write what
// the replay reads from its source.
func (t Table) For(spec schemas.Spec, name string) (Row, error) {
	row, ok := t.row(name)
	if !ok {
		return row, fmt.Errorf("%w: there is no stage %q", runs.ErrSettings, name)
	}
	if _, has := t.Of(spec).row(name); !has && spec.Replays() {
		return row, fmt.Errorf("%w: run %s replays %s of run %s: it has no %s", runs.ErrSettings, spec.Run, spec.Source.From,
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

// Job is what a stage is built for, and from.
type Job struct {
	Spec        schemas.Spec
	Streams     *streams.Conn
	Checkpoints *checkpoints.Repository
	// Engine is nil for a stage that needs none.
	Engine *Engine
	Log    zerolog.Logger
	// Sampled is told how many of a batch's responses are sampled.
	Sampled func(done, of int)
}

// Work is a built stage. One of Process and Refilling is set.
type Work struct {
	Process   streams.Process
	Refilling streams.Refilling
	// Ready waits for what the stage needs before its first message, and WaitsFor says what that is; nil for nothing. Inside a
	// message it would be waited for as long as work under way is given when the stage is told to end.
	Ready    func(context.Context) error
	WaitsFor string
	// Close frees what the stage holds; nil for nothing.
	Close func(context.Context) error
	// MaxInFlight is that of streams.Stage.
	MaxInFlight func(iteration uint32) int
	// Adopt is for a stage whose messages are made for a policy. In a replay of them, those of an iteration wait for the run's
	// own policy, and Adopt makes each a message for it.
	Adopt func(m events.Message, iteration uint32, policy string)
}
