package trainer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/curves"
	"github.com/ldalign/ldalign/trainer/objective"
	"github.com/ldalign/ldalign/trainer/schedule"
)

// ErrInterrupted says that training stopped between two steps because its context ended; its state is committed and the
// next start goes on from there.
var ErrInterrupted = errors.New("trainer: interrupted; the state is saved and the next start goes on from it")

// Names of phases in cursors and records.
const (
	policyPhase = "policy"
	guidePhase  = "guide"
)

// task is what a phase minimises over its examples.
type task interface {
	// examples is their number.
	examples() int
	// size is how many positions example i takes in the model.
	size(i int) int
	// accumulate runs forward and backward over the examples part, a piece of the step's batch whole, and leaves the
	// gradients of its share of the loss in the parameters. It returns the sums of what it saw.
	accumulate(s *tensor.Scope, part, whole []int, step int) (stats, error)
}

// stats are sums over examples of a step.
type stats struct {
	// loss is this part's share of the step's loss.
	loss  float64
	pairs objective.Stats
	// tokens that went through the model, without padding; responseTokens are those that the loss is about.
	tokens, responseTokens int
}

// phase is one stretch of training: epochs over fixed examples with a fresh optimizer.
type phase struct {
	name      string // policyPhase or guidePhase
	iteration uint32
	seed      uint64
	task      task
	// batches has the ids of the task's examples; run adds each step's. Its steps are those of records.
	batches checkpoints.Batches
	params  []tensor.Named
	spec    schemas.OptimizerSpec
	epochs  int
	batch   int
	// micro and microTokens bound the examples and the positions of a micro-batch.
	micro, microTokens int
	// inOrder makes the first epoch visit the examples as they stand, not shuffled.
	inOrder bool
	// open tells that examples are still arriving, within a first epoch in order. grow then waits until there are n of them,
	// of which so many are trained, or the last has come, which it returns. readBack says that the log has had them for long.
	open bool
	grow func(ctx context.Context, n, trained int, readBack bool) (complete bool, err error)
	// planned is the number of examples that the learning rate's schedule is made for; 0 takes those that are there.
	planned int
	// every is the number of steps between two calls of save; 0 for none.
	every int
	// save copies the state at a cursor and returns what commits the copy: training goes on meanwhile.
	save func(ctx context.Context, cursor checkpoints.Cursor) (commit func() error, err error)
	// hold, not nil, is called between two steps and may wait; it returns when its context ends at the latest.
	hold func(ctx context.Context)
	// progress reports finished steps; last is the newest record, nil before the first.
	progress func(done, total int, last *curves.Step)

	// optimizer is made by prepare.
	optimizer tensor.Optimizer
	tensors   []*tensor.Tensor
	// records of the steps so far, those before a restart included, without those that pieces hold.
	records []curves.Step
	pieces  pieces
	// order is the shuffle of epoch ordered-1.
	order   []int
	ordered int
	saving  saving
	// ranks compute the phase together; nil for this process alone.
	ranks *ranks
}

// prepare makes the optimizer with fresh state.
func (p *phase) prepare(ctx context.Context, engine *tensor.Engine) error {
	for _, named := range p.params {
		p.tensors = append(p.tensors, named.Tensor)
	}
	params := p.owned()
	return engine.Do(ctx, func(s *tensor.Scope) (err error) {
		if p.spec.Kind == "adamw" {
			p.optimizer, err = tensor.NewAdamW(s, params, tensor.AdamWOptions{
				Beta1: p.spec.Beta1, Beta2: p.spec.Beta2, Eps: p.spec.Eps, WeightDecay: p.spec.WeightDecay,
			})
			return err
		}
		p.optimizer, err = tensor.NewRMSprop(s, params, tensor.RMSpropOptions{Alpha: p.spec.Alpha, Eps: p.spec.Eps})
		return err
	})
}

// owned are the parameters that this process updates.
func (p *phase) owned() []tensor.Named {
	if p.ranks == nil {
		return p.params
	}
	return p.ranks.owned(p.params)
}

// close frees the optimizer's state.
func (p *phase) close(ctx context.Context, engine *tensor.Engine) error {
	return engine.Do(ctx, func(*tensor.Scope) error {
		p.optimizer.Free()
		return nil
	})
}

// run trains from step (0 at first) to the end. Between steps it looks at ctx: when that has ended it saves the state and
// returns ErrInterrupted; not so when the lease was lost, for then the run is another's. A loss or gradient that is not
// finite stops it before the step would spoil the weights. States are committed beside the training: the next one waits
// until the last is done, a failed one stops the run, and run returns when none is under way.
func (p *phase) run(ctx context.Context, engine *tensor.Engine, step int) (err error) {
	defer func() { err = errors.Join(err, p.saving.wait()) }()
	peak := schedule.PeakRate(p.spec, p.iteration)
	begun, saved := false, -1 // saved is the step of the last state
	for ; ; step++ {
		if err := p.saving.failed(); err != nil {
			return err
		}
		if p.open && ctx.Err() == nil {
			if err := p.arrive(ctx, step); err != nil && ctx.Err() == nil {
				return err
			}
		}
		total := p.total()
		if !begun && ctx.Err() == nil {
			p.progress(step, total, nil)
			begun = true
		}
		if p.hold != nil && (p.open || step < p.steps()*p.epochs) {
			if err := p.wait(ctx); err != nil {
				return err
			}
		}
		if ctx.Err() != nil { // after the last step too: what comes next would fail, and the steps would be lost
			if cause := context.Cause(ctx); errors.Is(cause, ErrLeaseLost) {
				return cause
			}
			if step != saved {
				err = p.saveAt(ctx, step)
			}
			if err := errors.Join(err, p.saving.wait()); err != nil {
				return fmt.Errorf("trainer: stopped, but the state could not be saved, so the steps since the last one are lost: %w", err)
			}
			return ErrInterrupted
		}
		if !p.open && step >= p.steps()*p.epochs {
			return nil
		}
		epoch, batch := p.next(step)
		record := curves.Step{
			Phase: p.name, Iteration: p.iteration, Step: step + 1, Epoch: epoch, LR: schedule.LearningRate(p.spec, peak, step, total),
		}
		if err := p.lead(context.WithoutCancel(ctx), engine, batch, step, &record); err != nil {
			return fmt.Errorf("trainer: %s of iteration %d, step %d of %d: %w", p.name, p.iteration, step+1, total, err)
		}
		p.records = append(p.records, record)
		p.batches.Steps = append(p.batches.Steps, checkpoints.Batch{Step: step + 1, Epoch: epoch, Pairs: batch})
		p.progress(step+1, total, &record)
		if p.every > 0 && (step+1)%p.every == 0 && step+1 < total {
			if err := p.saveAt(ctx, step+1); err != nil {
				return err
			}
			saved = step + 1
		}
	}
}

// arrive waits until the examples of the step that comes next are there.
func (p *phase) arrive(ctx context.Context, step int) error {
	complete, err := p.grow(ctx, (step+1)*p.batch, step*p.batch, false)
	p.open = !complete
	return err
}

// total is the number of steps that the schedule is made for. Fewer are made when planned examples have not come.
func (p *phase) total() int {
	if p.planned > 0 {
		return schedule.Steps(p.planned, p.batch, p.epochs)
	}
	return p.steps() * p.epochs
}

// steps is the number of steps of an epoch, once all examples are there.
func (p *phase) steps() int { return schedule.Steps(p.task.examples(), p.batch, 1) }

// next is the batch that comes after the given number of steps, none at the end, and its epoch.
func (p *phase) next(step int) (epoch int, batch []int) {
	n := p.task.examples()
	if p.open {
		if (step+1)*p.batch > n {
			return 0, nil // not there yet
		}
		return 0, sequence(step*p.batch, p.batch)
	}
	epoch, at := step/p.steps(), step%p.steps()*p.batch
	switch {
	case epoch >= p.epochs:
		return epoch, nil
	case p.inOrder && epoch == 0:
		return 0, sequence(at, min(p.batch, n-at))
	case p.ordered != epoch+1:
		p.order, p.ordered = schedule.Permutation(n, p.seed, p.name, p.iteration, epoch), epoch+1
	}
	return epoch, p.order[at:min(at+p.batch, n)]
}

// sequence is at, at+1 and so on.
func sequence(at, n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = at + i
	}
	return out
}

// saveAt begins to commit the state after the given number of steps, when the last one is committed.
func (p *phase) saveAt(ctx context.Context, step int) error {
	if err := p.saving.wait(); err != nil {
		return err
	}
	ctx, release := lasting(ctx)
	commit, err := p.save(ctx, p.cursor(step))
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
func (p *phase) cursor(step int) checkpoints.Cursor {
	epoch, batch := p.next(step)
	position := step * p.batch
	if !p.open {
		position = step % p.steps() * p.batch
	}
	return checkpoints.Cursor{
		Phase: p.name, Iteration: p.iteration, Open: p.open, Epoch: epoch, Position: position, Step: step,
		Pending: p.pending(batch),
	}
}

// pending are the ids of a batch.
func (p *phase) pending(batch []int) []string {
	var ids []string
	for _, i := range batch {
		ids = append(ids, p.batches.Pairs[i])
	}
	return ids
}

// parts cuts a batch, in its order, into micro-batches: as many examples as the bounds allow, at least one. So they are a
// function of the spec and the data.
func (p *phase) parts(batch []int) [][]int {
	var parts [][]int
	if len(batch) == 0 { // the share of a rank
		return nil
	}
	from, size := 0, 0
	for at, i := range batch {
		n := p.task.size(i)
		if at > from && (at-from >= p.micro || size+n > p.microTokens) {
			parts = append(parts, batch[from:at])
			from, size = at, 0
		}
		size += n
	}
	return append(parts, batch[from:])
}

// wait calls hold. The other ranks hear from this one meanwhile, so that they do not take it for dead; when one of them is, the
// wait ends with that.
func (p *phase) wait(ctx context.Context) error {
	if p.ranks == nil {
		p.hold(ctx)
		return nil
	}
	holding, end := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.hold(holding)
	}()
	defer func() { end(); <-done }()
	beat := time.NewTicker(GroupPatience / 10)
	defer beat.Stop()
	for {
		select {
		case <-done:
			return nil
		case <-beat.C:
			if err := p.ranks.tell(context.WithoutCancel(ctx), order{Idle: true}); err != nil {
				return err
			}
		}
	}
}

// lead is step on the rank that decides.
func (p *phase) lead(ctx context.Context, engine *tensor.Engine, batch []int, step int, record *curves.Step) error {
	if p.ranks != nil {
		if err := p.ranks.tell(ctx, order{Step: &stepOrder{Batch: batch, Step: step, LR: record.LR}}); err != nil {
			return err
		}
	}
	return p.step(ctx, engine, batch, step, record)
}

// step is one optimizer step: forward and backward in micro-batches, clip, update.
func (p *phase) step(ctx context.Context, engine *tensor.Engine, batch []int, step int, record *curves.Step) error {
	var sum objective.Stats
	suspects := batch // of a loss that is not finite
	share := batch
	if p.ranks != nil {
		share = p.ranks.share(batch)
	}
	for _, part := range p.parts(share) {
		err := engine.Do(ctx, func(s *tensor.Scope) error {
			got, err := p.task.accumulate(s, part, batch, step)
			if err != nil {
				return err
			}
			if finite(record.Loss) && !finite(got.loss) {
				suspects = part
			}
			record.Loss += got.loss
			record.Tokens += got.tokens
			record.ResponseTokens += got.responseTokens
			sum.Merge(got.pairs)
			return s.Err()
		})
		if err != nil {
			return err
		}
	}
	if p.ranks != nil {
		all, err := p.ranks.sums(ctx, stats{
			loss: record.Loss, pairs: sum, tokens: record.Tokens, responseTokens: record.ResponseTokens,
		})
		if err != nil {
			return err
		}
		record.Loss, record.Tokens, record.ResponseTokens, sum = all.loss, all.tokens, all.responseTokens, all.pairs
	}
	record.Pairs = sum.Means()
	return engine.Do(ctx, func(s *tensor.Scope) error {
		return s.NoGrad(func(s *tensor.Scope) error {
			grads := make([]*tensor.Tensor, len(p.tensors))
			for i, t := range p.tensors {
				if len(share) == 0 { // this rank has computed nothing
					grads[i] = t.ZerosLike()
					continue
				}
				grads[i] = t.Grad()
			}
			if p.ranks != nil {
				if err := p.ranks.group.Sum(s, grads...); err != nil {
					return err
				}
			}
			limit := p.spec.Clip
			if limit == 0 {
				limit = math.Inf(1)
			}
			norm := tensor.ClipGradNorm(s, grads, limit)
			if err := s.Err(); err != nil {
				return err
			}
			record.GradNorm = norm
			if !finite(record.Loss) || !finite(norm) {
				return fmt.Errorf("loss %v, gradient norm %v: not finite over %s; the weights are as before this step "+
					"(look at these, lower optimizer.lr or objective.beta, or set optimizer.clip)", record.Loss, norm, p.named(suspects))
			}
			if err := p.update(s, grads, record.LR); err != nil {
				return err
			}
			tensor.FreeGrads(s, p.tensors)
			return s.Err()
		})
	})
}

// update changes the parameters by their gradients.
func (p *phase) update(s *tensor.Scope, grads []*tensor.Tensor, lr float64) error {
	if p.ranks == nil {
		return p.optimizer.Step(s, p.tensors, grads, lr)
	}
	var params, own []*tensor.Tensor
	for i, owner := range p.ranks.owner {
		if owner == p.ranks.group.Rank {
			params, own = append(params, p.tensors[i]), append(own, grads[i])
		}
	}
	if err := p.optimizer.Step(s, params, own, lr); err != nil {
		return err
	}
	return p.ranks.publish(s, p.tensors)
}

// named lists the ids of examples, up to 8.
func (p *phase) named(examples []int) string {
	const most = 8
	var names []string
	for _, i := range examples[:min(len(examples), most)] {
		name := fmt.Sprint("number ", i)
		if i < len(p.batches.Pairs) {
			name = p.batches.Pairs[i]
		}
		names = append(names, name)
	}
	text := "pairs " + strings.Join(names, ", ")
	if more := len(examples) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }
