package loop

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/trainer/curves"
	"github.com/ldalign/ldalign/trainer/ranks"
	"github.com/ldalign/ldalign/trainer/schedule"
	"github.com/ldalign/ldalign/trainer/task"
)

// ErrInterrupted says that training stopped between two steps because its context ended; its state is committed and the
// next start goes on from there.
var ErrInterrupted = errors.New("trainer: interrupted; the state is saved and the next start goes on from it")

// ErrLeaseLost says that this trainer did not renew its lease in time, so that another one may have the run by now. It has
// written nothing since it knew. It is the cause with which the context of Run ends then.
var ErrLeaseLost = errors.New("trainer: the lease was lost: another trainer may have the run")

// Config is what a phase is made of.
type Config struct {
	Plan   schedule.Plan
	Engine *tensor.Engine
	Task   task.Task
	// Params are the parameters that are trained.
	Params []tensor.Named
	// Batches has the ids of the task's examples and of those left out, and no steps.
	Batches checkpoints.Batches
	// Arrivals brings the task's examples while the first epoch goes on, which is then in order; nil when all are there.
	Arrivals Arrivals
	// Planned is the number of examples that the learning rate's schedule is made for; 0 takes those that are there.
	Planned int
	// Shared, not nil, has several processes compute the phase.
	Shared *Shared
	// Saver takes the states.
	Saver Saver
	// Hold, not nil, is called between two steps and may wait; it returns when its context ends at the latest.
	Hold func(ctx context.Context)
	// Observer, not nil, is told of the steps.
	Observer Observer
	// SegmentLines is how many lines a segment of a state's files has; 0 for as many as usual.
	SegmentLines int
}

// Arrivals brings the examples of an iteration that still arrives into the phase's task. What it returns holds also with an
// error.
type Arrivals interface {
	// Await returns when n examples are there or all have come; trained of them are trained. pause is called while there are
	// fewer, and its error ends the wait.
	Await(ctx context.Context, n, trained int, pause func() error) (Arrived, error)
	// ReadBack is Await for n examples which were there when a state was taken, at its cursor.
	ReadBack(ctx context.Context, n int, at checkpoints.Cursor, pause func() error) (Arrived, error)
}

// Arrived is what has arrived of an iteration so far.
type Arrived struct {
	// Pairs are the ids of the task's examples, Skipped what was left out.
	Pairs   []string
	Skipped []checkpoints.Skipped
	// Planned is the number of examples that the iteration will have at most.
	Planned int
	// Complete says that no more will come.
	Complete bool
}

// Saver saves states.
type Saver interface {
	// Save copies the state of a phase and returns what commits the copy: training goes on meanwhile.
	Save(ctx context.Context, p *Phase, at checkpoints.Cursor) (commit func() error, err error)
}

// Observer is told of the steps of a phase.
type Observer interface {
	// Begins is called as the phase begins or goes on, with the records of the steps that were made before.
	Begins(records []curves.Step, done, total int)
	// Made is called after each step. What it adds to the record stays there.
	Made(record *curves.Step, done, total int)
}

// Phase is a phase in training.
type Phase struct {
	Config
	*stepper
	journal
	saving saving
	// open says that examples still arrive, and planned is Config.Planned or what has been learnt since.
	open    bool
	planned int
	// order is how epoch ordered-1 visits the examples.
	order   []int
	ordered int
	// from is the number of steps that were made before this process began.
	from int
}

// New prepares a phase. Close frees what it holds.
func New(ctx context.Context, c Config) (*Phase, error) {
	p := &Phase{Config: c, open: c.Arrivals != nil, planned: c.Planned}
	p.batches, p.size = c.Batches, c.SegmentLines
	var group *ranks.Group
	if c.Shared != nil {
		group = c.Shared.Group
		if err := lead(ctx, c); err != nil {
			return nil, fmt.Errorf("trainer: %w", err)
		}
	}
	var err error
	p.stepper, err = newStepper(ctx, c.Engine, c.Plan, c.Task, c.Params, group)
	return p, err
}

// Close frees the optimizer's state.
func (p *Phase) Close(ctx context.Context) error { return p.close(ctx) }

// Steps is the number of steps made so far.
func (p *Phase) Steps() int { return p.made() }

// Files are records and batches of all steps, each in one file. read reads a file of an earlier state of the phase.
func (p *Phase) Files(read func(checkpoints.File) ([]byte, error)) []checkpoints.Source {
	return p.complete(read)
}

// Run trains the phase to its end. Between steps it looks at ctx: when that has ended it saves the state and returns
// ErrInterrupted; not so with ErrLeaseLost as the cause, for then the run is another's. A loss or gradient that is not finite
// stops it before the step would spoil the weights. States are committed beside the training: the next one waits until the
// last is done, a failed one stops the run, and Run returns when none is under way.
func (p *Phase) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, p.saving.wait()) }()
	if p.Shared != nil {
		if err := p.sendWeights(ctx); err != nil {
			return err
		}
	}
	begun, saved := false, -1 // saved is the step of the last state
	for step := p.from; ; step++ {
		if err := p.saving.failed(); err != nil {
			return err
		}
		if p.open && ctx.Err() == nil {
			if err := p.await(ctx, step); err != nil && ctx.Err() == nil {
				return err
			}
		}
		total := p.total()
		if !begun && ctx.Err() == nil {
			if p.Observer != nil {
				p.Observer.Begins(p.records, step, total)
			}
			begun = true
		}
		if p.Hold != nil && (p.open || step < p.all()) {
			if err := p.hold(ctx); err != nil {
				return err
			}
		}
		if ctx.Err() != nil { // after the last step too: what comes next would fail, and the steps would be lost
			return p.interrupted(ctx, step, saved)
		}
		if !p.open && step >= p.all() {
			return nil
		}
		if err := p.train(context.WithoutCancel(ctx), step, total); err != nil {
			return err
		}
		if every := p.Plan.Every; every > 0 && (step+1)%every == 0 && step+1 < total {
			if err := p.save(ctx, step+1); err != nil {
				return err
			}
			saved = step + 1
		}
	}
}

// interrupted ends the phase between two steps, as its context has ended.
func (p *Phase) interrupted(ctx context.Context, step, saved int) (err error) {
	if cause := context.Cause(ctx); errors.Is(cause, ErrLeaseLost) {
		return cause
	}
	if step != saved {
		err = p.save(ctx, step)
	}
	if err := errors.Join(err, p.saving.wait()); err != nil {
		return fmt.Errorf("trainer: stopped, but the state could not be saved, so the steps since the last one are lost: %w", err)
	}
	return ErrInterrupted
}

// train makes the step that comes after so many.
func (p *Phase) train(ctx context.Context, step, total int) error {
	epoch, batch := p.next(step)
	record := curves.Step{
		Phase: p.Plan.Phase, Iteration: p.Plan.Iteration, Step: step + 1, Epoch: epoch, LR: p.Plan.Rate(step, total),
	}
	err := p.command(ctx, Command{Step: &stepCommand{Batch: batch, Step: step, LR: record.LR}})
	if err == nil {
		err = p.step(ctx, batch, step, &record, p.batches.Pairs)
	}
	if err != nil {
		return fmt.Errorf("trainer: %s of iteration %d, step %d of %d: %w", p.Plan.Phase, p.Plan.Iteration, step+1, total, err)
	}
	made := p.add(record, batch)
	if p.Observer != nil {
		p.Observer.Made(made, step+1, total)
	}
	return nil
}

// await waits until the examples of the step that comes after so many are there.
func (p *Phase) await(ctx context.Context, step int) error {
	got, err := p.Arrivals.Await(ctx, (step+1)*p.Plan.Batch, step*p.Plan.Batch, p.saving.wait)
	p.take(got)
	return err
}

// take notes what has arrived.
func (p *Phase) take(got Arrived) {
	p.batches.Pairs, p.batches.Skipped, p.planned, p.open = got.Pairs, got.Skipped, got.Planned, !got.Complete
}

// total is the number of steps that the schedule is made for. Fewer are made when planned examples have not come.
func (p *Phase) total() int {
	if p.planned > 0 {
		return p.Plan.Total(p.planned)
	}
	return p.all()
}

// all is the number of steps over the examples that are there.
func (p *Phase) all() int { return p.Plan.Total(p.Task.Len()) }

// next is the batch that comes after the given number of steps, none at the end, and its epoch.
func (p *Phase) next(step int) (epoch int, batch []int) {
	n, size := p.Task.Len(), p.Plan.Batch
	if p.open {
		if (step+1)*size > n {
			return 0, nil // not there yet
		}
		return 0, schedule.Sequence(step*size, size)
	}
	steps := p.Plan.Steps(n)
	epoch, at := step/steps, step%steps*size
	if epoch >= p.Plan.Epochs {
		return epoch, nil
	}
	if p.ordered != epoch+1 {
		p.order, p.ordered = p.Plan.Order(n, epoch), epoch+1
	}
	return epoch, p.order[at:min(at+size, n)]
}

// save begins to commit the state after the given number of steps, when the last one is committed.
func (p *Phase) save(ctx context.Context, step int) error {
	if err := p.saving.wait(); err != nil {
		return err
	}
	ctx, release := lasting(ctx)
	commit, err := p.Saver.Save(ctx, p, p.cursor(step))
	if err != nil {
		release()
		return err
	}
	p.saving.begin(func() error {
		defer release()
		return commit()
	})
	return nil
}

// cursor is the place after the given number of steps.
func (p *Phase) cursor(step int) checkpoints.Cursor {
	epoch, batch := p.next(step)
	position := step * p.Plan.Batch
	if !p.open {
		position = step % p.Plan.Steps(p.Task.Len()) * p.Plan.Batch
	}
	return checkpoints.Cursor{
		Phase: p.Plan.Phase, Iteration: p.Plan.Iteration, Open: p.open, Epoch: epoch, Position: position, Step: step,
		Pending: p.pending(batch),
	}
}

// pending are the ids of a batch.
func (p *Phase) pending(batch []int) []string {
	var ids []string
	for _, i := range batch {
		ids = append(ids, p.batches.Pairs[i])
	}
	return ids
}

// hold calls Hold. The other ranks hear from this one meanwhile, so that they do not take it for dead; when one of them is, the
// wait ends with that.
func (p *Phase) hold(ctx context.Context) error {
	if p.Shared == nil {
		p.Hold(ctx)
		return nil
	}
	holding, end := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.Hold(holding)
	}()
	defer func() { end(); <-done }()
	beat := time.NewTicker(ranks.Patience / 10)
	defer beat.Stop()
	for {
		select {
		case <-done:
			return nil
		case <-beat.C:
			if err := p.command(context.WithoutCancel(ctx), Command{Idle: true}); err != nil {
				return err
			}
		}
	}
}
