package loop

import (
	"context"
	"errors"
	"fmt"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/trainer/activity"
	"github.com/ldalign/ldalign/trainer/curves"
	"github.com/ldalign/ldalign/trainer/schedule"
	"github.com/ldalign/ldalign/trainer/task"
)

// ErrLeaseLost says that another trainer has taken over the run. The context of Run is then cancelled with this cause, and
// nothing more is written.
var ErrLeaseLost = errors.New("trainer: the lease was lost: another trainer has taken over the run")

// Config is what a phase is made of.
type Config struct {
	Plan   schedule.Plan
	Engine *tensor.Engine
	Task   task.Task
	// Params are the parameters that are trained.
	Params []tensor.Named
	// Batches has the ids of the task's examples and of those left out, and no steps.
	Batches checkpoints.Batches
	// Arrivals adds examples to the task during the first epoch, which then visits them in order; nil if the task has all.
	Arrivals Arrivals
	// Planned is the number of examples that the learning-rate schedule is made for; 0 means the number in the task.
	Planned int
	// Saver saves the states.
	Saver Saver
	// Hold, if not nil, is called between two steps and may block. It must return when its context ends.
	Hold func(ctx context.Context)
	// Lease, if not nil, is the trainer's lease on the run.
	Lease Lease
	// Observer, if not nil, is called at each step.
	Observer Observer
	// SegmentLines is how many lines a segment of a state's files has; 0 for the default.
	SegmentLines int
}

// Arrivals adds the examples of an iteration to the phase's task while they arrive. The Arrived that its methods return is
// valid also with an error.
type Arrivals interface {
	// Await waits until the task has n examples or the iteration is complete. trained is the number of examples trained so
	// far. It calls pause while it waits; an error of pause ends the wait.
	Await(ctx context.Context, n, trained int, pause func() error) (Arrived, error)
	// ReadBack is like Await, for the n examples that the task had when a state was saved at a cursor.
	ReadBack(ctx context.Context, n int, at checkpoints.Cursor, pause func() error) (Arrived, error)
}

// Arrived is what has arrived of an iteration so far.
type Arrived struct {
	// Pairs are the ids of the task's examples, Skipped those that were left out.
	Pairs   []string
	Skipped []checkpoints.Skipped
	// Planned is the most examples that the iteration can have.
	Planned int
	// Complete says that no more examples will arrive.
	Complete bool
}

// Saver saves states.
type Saver interface {
	// Save copies the state of a phase. commit writes the copy, while training continues.
	Save(ctx context.Context, p *Phase, at checkpoints.Cursor) (commit func() error, err error)
}

// Lease makes a trainer the only one of its run.
type Lease interface {
	// Doubtful reports whether another trainer may take over the run, because the lease could not be renewed.
	Doubtful() bool
	// Confirm waits until the lease is renewed. It returns ErrLeaseLost when another trainer has taken over the run.
	Confirm(ctx context.Context) error
}

// Observer observes the steps of a phase.
type Observer interface {
	// Begins is called when the phase begins or resumes, with the records of the earlier steps.
	Begins(records []curves.Step, done, total int)
	// Made is called after each step. It may add to the record.
	Made(record *curves.Step, done, total int)
}

// Phase is a phase that is being trained.
type Phase struct {
	Config
	journal
	saving saving
	// optimizer updates tensors, those of Params.
	optimizer tensor.Optimizer
	tensors   []*tensor.Tensor
	// open says that examples still arrive. planned is Config.Planned, or the newest value from Arrivals.
	open    bool
	planned int
	// order is the order of the examples in epoch ordered-1.
	order   []int
	ordered int
	// from is the number of steps that earlier processes made.
	from int
}

// New prepares a phase. The caller must close it.
func New(ctx context.Context, c Config) (*Phase, error) {
	p := &Phase{Config: c, open: c.Arrivals != nil, planned: c.Planned}
	p.batches, p.size = c.Batches, c.SegmentLines
	return p, p.newOptimizer(ctx)
}

// Close frees the optimizer's state.
func (p *Phase) Close(ctx context.Context) error {
	return p.Engine.Do(ctx, func(*tensor.Scope) error {
		p.optimizer.Free()
		return nil
	})
}

// Steps is the number of steps made so far.
func (p *Phase) Steps() int { return p.made() }

// Files returns the records and the batches of all steps, each as one file. read reads a file of an earlier state of the
// phase.
func (p *Phase) Files(read func(checkpoints.File) ([]byte, error)) []checkpoints.Source {
	return p.complete(read)
}

// Run trains the phase to its end. When ctx ends, it stops between two steps, saves the state and returns
// activity.ErrInterrupted. If the cause is ErrLeaseLost it saves nothing, because another trainer owns the run, and returns the
// cause. While the lease is doubtful, it saves the state, makes no steps, and goes on when the lease is confirmed. A loss or
// gradient that is not finite is an error; the weights are then as before that step. States are committed in the background,
// one at a time. A failed commit stops the run, and Run returns only after the last commit has ended.
func (p *Phase) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, p.saving.wait()) }()
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
			p.Hold(ctx)
		}
		if p.Lease != nil && ctx.Err() == nil && p.Lease.Doubtful() {
			err := p.secure(ctx, step, saved)
			if err == nil {
				saved = step
			} else if ctx.Err() == nil {
				return err
			}
		}
		if ctx.Err() != nil { // also after the last step: publishing the policy would fail, and the steps would be lost
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

// secure saves the state, if it is not saved, and waits until the lease is confirmed. The commit of the state waits too.
func (p *Phase) secure(ctx context.Context, step, saved int) error {
	if step != saved {
		if err := p.save(ctx, step); err != nil {
			return err
		}
	}
	if err := p.saving.wait(); err != nil {
		return err
	}
	return p.Lease.Confirm(ctx)
}

// interrupted ends the phase between two steps, after its context has ended.
func (p *Phase) interrupted(ctx context.Context, step, saved int) (err error) {
	if cause := context.Cause(ctx); errors.Is(cause, ErrLeaseLost) {
		return cause
	}
	if step != saved {
		err = p.save(ctx, step)
	}
	if err := errors.Join(err, p.saving.wait()); err != nil {
		return fmt.Errorf("trainer: interrupted, but the state could not be saved; the steps since the last state are lost: %w", err)
	}
	return activity.ErrInterrupted
}

// train makes the step after the given number of steps.
func (p *Phase) train(ctx context.Context, step, total int) error {
	epoch, batch := p.next(step)
	record := curves.Step{
		Phase: p.Plan.Phase, Iteration: p.Plan.Iteration, Step: step + 1, Epoch: epoch, LR: p.Plan.Rate(step, total),
	}
	if err := p.step(ctx, batch, step, &record); err != nil {
		return fmt.Errorf("trainer: %s of iteration %d, step %d of %d: %w", p.Plan.Phase, p.Plan.Iteration, step+1, total, err)
	}
	made := p.add(record, batch)
	if p.Observer != nil {
		p.Observer.Made(made, step+1, total)
	}
	return nil
}

// await waits until the examples of the next step have arrived. step is the number of steps made.
func (p *Phase) await(ctx context.Context, step int) error {
	got, err := p.Arrivals.Await(ctx, (step+1)*p.Plan.Batch, step*p.Plan.Batch, p.saving.wait)
	p.take(got)
	return err
}

// take stores what has arrived.
func (p *Phase) take(got Arrived) {
	p.batches.Pairs, p.batches.Skipped, p.planned, p.open = got.Pairs, got.Skipped, got.Planned, !got.Complete
}

// total is the number of steps that the schedule is made for. The phase makes fewer if planned examples do not arrive.
func (p *Phase) total() int {
	if p.planned > 0 {
		return p.Plan.Total(p.planned)
	}
	return p.all()
}

// all is the number of steps over the examples that have arrived.
func (p *Phase) all() int { return p.Plan.Total(p.Task.Len()) }

// next is the batch after the given number of steps, and its epoch. The batch is nil at the end.
func (p *Phase) next(step int) (epoch int, batch []int) {
	n, size := p.Task.Len(), p.Plan.Batch
	if p.open {
		if (step+1)*size > n {
			return 0, nil // has not arrived yet
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

// save waits for the last commit, and begins to commit the state after the given number of steps.
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

// cursor is the position after the given number of steps.
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
