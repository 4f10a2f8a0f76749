package trainer

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/curves"
	"github.com/ldalign/ldalign/trainer/fit"
	"github.com/ldalign/ldalign/trainer/objective"
)

// Data parallelism: training.ranks processes compute each step of the policy together. Rank 0 is the trainer: it reads the
// log, holds the lease, decides what is next, and commits. The others (Follow) know nothing of streams and checkpoints:
// rank 0 sends them the task, the weights and, step by step, what to do. Each computes the gradients of its part of the
// batch; their sum is that of the whole, because every part's loss is divided by the whole batch. Each updates the
// parameters that it owns, for which alone it keeps optimizer state (ZeRO, stage 1), and sends them to the others.

// GroupPatience is how long one operation may wait for the others. It is for a rank that computes for ever: one that has died
// is noticed at once, and whoever starts the processes sees to those that are stopped.
const GroupPatience = 10 * time.Minute

// ranks is a member's side of the group.
type ranks struct {
	engine *tensor.Engine
	group  *tensor.Group
	// owner is the rank that updates each of the phase's parameters.
	owner []int
}

// order is what rank 0 has the others do next. The zero order ends the phase.
type order struct {
	Begin *beginning
	Step  *stepOrder
	// Weights, Load and Gather: the weights, or the optimizer's state, follow from rank 0, or go to it.
	Weights, Load, Gather bool
	// Idle says that rank 0 lives and has nothing to do.
	Idle bool
}

// beginning is all that a rank needs to compute steps of a phase.
type beginning struct {
	Config    []byte // config.json
	LoRA      *architecture.LoRA
	Optimizer schemas.OptimizerSpec
	// Micro and MicroTokens are a phase's.
	Micro, MicroTokens int
	Compute            models.Compute
	Objective          objective.Preference
	Pairs              []sentPair
	Rows               []models.Sequence
}

// sentPair is a pair as it is sent.
type sentPair struct {
	Chosen, Rejected                         models.Sequence
	RefChosen, RefRejected, Weight, Distance float64
	Sampled, Same                            bool
}

type stepOrder struct {
	Batch []int
	Step  int
	LR    float64
}

// shareOut has training.ranks processes compute a phase. end, to be called with the phase's error when it is over, sends
// them home, and returns that error; where the group broke, with what became of the others and what to do.
func (t *Trainer) shareOut(ctx context.Context, p *phase) (end func(error) error, err error) {
	group, wait, err := t.Ranks(ctx, t.Spec.Training.Ranks)
	if err != nil {
		return nil, fmt.Errorf("trainer: training.ranks: %w", err)
	}
	r := &ranks{engine: t.Engine, group: group}
	end = func(failed error) error {
		inStep := failed == nil || errors.Is(failed, ErrInterrupted)
		if inStep {
			inStep = r.tell(context.WithoutCancel(ctx), order{}) == nil
		}
		if !inStep {
			group.Close() // the others may wait for something else than an order: they see that this one is gone
		}
		ended := wait()
		group.Close() // not before the others have read the order: what is on its way is lost with the connection
		if ended != nil && inStep {
			t.Log.Warn().Err(ended).Str("run", t.Spec.Run).Msg("a rank did not end as it should")
		}
		if !errors.Is(failed, tensor.ErrGroup) {
			return failed
		}
		if ended == nil {
			ended = errors.New("a trainer process was too late")
		}
		return fmt.Errorf("%w\ntrainer: %w; the run goes on from its last state by the same command (or alone, with "+
			"training.ranks: 1)", failed, ended)
	}
	var lora *architecture.LoRA
	if l, ok := fit.LoRA(t.Spec.Training); ok {
		lora = &l
	}
	if err := r.lead(ctx, p, t.model, lora); err != nil {
		return nil, end(err)
	}
	return end, nil
}

// lead makes a phase of rank 0 one that the group computes. The phase is prepared and restored after it.
func (r *ranks) lead(ctx context.Context, p *phase, model *models.Model, lora *architecture.LoRA) error {
	config, err := model.Config().JSON()
	if err != nil {
		return err
	}
	b := &beginning{Config: config, LoRA: lora, Optimizer: p.spec, Micro: p.micro, MicroTokens: p.microTokens}
	switch t := p.task.(type) {
	case *pairTask:
		b.Objective, b.Compute = t.objective, t.compute
		for _, x := range t.pairs {
			b.Pairs = append(b.Pairs, sentPair{
				x.chosen, x.rejected, x.refChosen, x.refRejected, x.weight, x.distance, x.sampled, x.same,
			})
		}
	case *sequenceTask:
		b.Rows, b.Compute = t.rows, t.compute
	default:
		return fmt.Errorf("trainer: a %T cannot be shared out among ranks", p.task)
	}
	if n := min(p.batch, p.task.examples()); n < r.group.Size {
		return fmt.Errorf("trainer: training.ranks: %d processes cannot share a batch of %d: lower ranks", r.group.Size, n)
	}
	if err := r.tell(ctx, order{Begin: b}); err != nil {
		return err
	}
	return r.join(ctx, p)
}

// join divides a phase's parameters among the ranks.
func (r *ranks) join(ctx context.Context, p *phase) error {
	if len(p.params) < r.group.Size {
		return fmt.Errorf("trainer: training.ranks: %d processes for %d parameters: lower ranks", r.group.Size, len(p.params))
	}
	p.ranks = r
	return r.engine.Do(ctx, func(s *tensor.Scope) error {
		load := make([]int64, r.group.Size)
		r.owner = make([]int, len(p.params))
		for i, named := range p.params { // to the one who has least so far, the first of equals
			least := 0
			for rank := range load {
				if load[rank] < load[least] {
					least = rank
				}
			}
			r.owner[i] = least
			load[least] += named.Tensor.Numel() + 1 // so that empty ones are spread too
		}
		return s.Err()
	})
}

// owned are the parameters, of the phase's, that this rank updates.
func (r *ranks) owned(params []tensor.Named) []tensor.Named {
	var out []tensor.Named
	for i, p := range params {
		if r.owner[i] == r.group.Rank {
			out = append(out, p)
		}
	}
	return out
}

// share is this rank's part of a batch.
func (r *ranks) share(batch []int) []int {
	n, rank, size := len(batch), r.group.Rank, r.group.Size
	return batch[n*rank/size : n*(rank+1)/size]
}

// tell sends an order from rank 0.
func (r *ranks) tell(ctx context.Context, o order) error {
	var data bytes.Buffer
	if err := gob.NewEncoder(&data).Encode(o); err != nil {
		return fmt.Errorf("trainer: order for the other ranks: %w", err)
	}
	_, err := r.exchange(ctx, 0, data.Bytes())
	return err
}

// hear receives an order.
func (r *ranks) hear(ctx context.Context) (o order, err error) {
	data, err := r.exchange(ctx, 0, nil)
	if err != nil {
		return o, err
	}
	if err := gob.NewDecoder(bytes.NewReader(data)).Decode(&o); err != nil {
		return o, fmt.Errorf("trainer: order from rank 0: %w", err)
	}
	return o, nil
}

// exchange gives everybody the bytes of one rank.
func (r *ranks) exchange(ctx context.Context, from int, data []byte) (out []byte, err error) {
	const word = 8
	err = r.engine.Do(ctx, func(s *tensor.Scope) error {
		size := s.FromInt64([]int64{int64(len(data))}, 1)
		if err := r.group.Broadcast(s, from, size); err != nil {
			return err
		}
		n := size.Int64s()
		if err := s.Err(); err != nil || n[0] == 0 {
			return err
		}
		words := (n[0] + word - 1) / word
		padded := make([]byte, words*word)
		copy(padded, data)
		body := s.FromBytes(tensor.Int64, padded, words)
		if err := r.group.Broadcast(s, from, body); err != nil {
			return err
		}
		out = body.Bytes()
		if err := s.Err(); err != nil {
			return err
		}
		out = out[:n[0]]
		return nil
	})
	return out, err
}

// sums adds up what all ranks saw of a step.
func (r *ranks) sums(ctx context.Context, own stats) (stats, error) {
	type sent struct {
		Loss                   float64
		Pairs                  objective.Stats
		Tokens, ResponseTokens int
	}
	var mine bytes.Buffer
	if err := gob.NewEncoder(&mine).Encode(sent{own.loss, own.pairs, own.tokens, own.responseTokens}); err != nil {
		return stats{}, fmt.Errorf("trainer: figures for the other ranks: %w", err)
	}
	var all stats
	for rank := range r.group.Size {
		data, err := r.exchange(ctx, rank, mine.Bytes())
		if err != nil {
			return stats{}, err
		}
		var one sent
		if err := gob.NewDecoder(bytes.NewReader(data)).Decode(&one); err != nil {
			return stats{}, fmt.Errorf("trainer: figures of rank %d: %w", rank, err)
		}
		all.loss += one.Loss
		all.tokens += one.Tokens
		all.responseTokens += one.ResponseTokens
		all.pairs.Merge(one.Pairs)
	}
	return all, nil
}

// publish sends each parameter from its owner to all.
func (r *ranks) publish(s *tensor.Scope, tensors []*tensor.Tensor) error {
	for i, t := range tensors {
		if err := r.group.Broadcast(s, r.owner[i], t); err != nil {
			return err
		}
	}
	return nil
}

// weights sends rank 0's tensors to all.
func (r *ranks) weights(ctx context.Context, lists ...[]tensor.Named) error {
	return r.engine.Do(ctx, func(s *tensor.Scope) error {
		return s.NoGrad(func(s *tensor.Scope) error {
			for _, list := range lists {
				for _, named := range list {
					if err := r.group.Broadcast(s, 0, named.Tensor); err != nil {
						return fmt.Errorf("%s: %w", named.Name, err)
					}
				}
			}
			return s.Err()
		})
	})
}

// stateOf is the optimizer's state of all parameters in its order, as one process has it: name, owner and, of what is not
// this rank's, a tensor of the same shape for it. It is called inside Do.
func (r *ranks) stateOf(s *tensor.Scope, p *phase) (names []string, owners []int, tensors []*tensor.Tensor) {
	own := map[string]*tensor.Tensor{}
	var kinds []string
	first := "." + r.owned(p.params)[0].Name
	state := p.optimizer.State()
	for _, n := range state {
		own[n.Name] = n.Tensor
		if kind, ok := strings.CutSuffix(n.Name, first); ok {
			kinds = append(kinds, kind)
		}
	}
	names, owners, tensors = []string{state[0].Name}, []int{0}, []*tensor.Tensor{state[0].Tensor} // the step is everybody's
	for _, kind := range kinds {
		for i, param := range p.params {
			name := kind + "." + param.Name
			t := own[name]
			if t == nil {
				t = param.Tensor.ZerosLike()
			}
			names, owners, tensors = append(names, name), append(owners, r.owner[i]), append(tensors, t)
		}
	}
	return names, owners, tensors
}

// gather calls f, on rank 0, with the whole optimizer's state.
func (r *ranks) gather(ctx context.Context, p *phase, f func(s *tensor.Scope, state []tensor.Named) error) error {
	return r.engine.Do(ctx, func(s *tensor.Scope) error {
		return s.NoGrad(func(s *tensor.Scope) error {
			names, owners, tensors := r.stateOf(s, p)
			state := make([]tensor.Named, len(names))
			for i, t := range tensors {
				if err := r.group.Broadcast(s, owners[i], t); err != nil {
					return err
				}
				state[i] = tensor.Named{Name: names[i], Tensor: t}
			}
			if f == nil {
				return s.Err()
			}
			return f(s, state)
		})
	})
}

// scatter gives each rank its part of a state that rank 0 has; read, on rank 0, gives the tensor of a name.
func (r *ranks) scatter(
	ctx context.Context, p *phase, read func(s *tensor.Scope, like tensor.Named) (*tensor.Tensor, error),
) error {
	return r.engine.Do(ctx, func(s *tensor.Scope) error {
		return s.NoGrad(func(s *tensor.Scope) error {
			names, _, tensors := r.stateOf(s, p)
			byName := map[string]*tensor.Tensor{}
			for i, name := range names {
				value := tensors[i].ZerosLike()
				if read != nil {
					var err error
					if value, err = read(s, tensor.Named{Name: name, Tensor: tensors[i]}); err != nil {
						return err
					}
				}
				if err := r.group.Broadcast(s, 0, value); err != nil {
					return err
				}
				byName[name] = value
			}
			state := p.optimizer.State()
			for i := range state {
				state[i].Tensor = byName[state[i].Name]
			}
			if err := s.Err(); err != nil {
				return err
			}
			return p.optimizer.LoadState(s, state)
		})
	})
}

// Follow is a rank other than 0: it does what rank 0 orders in a phase, until that is over or ctx has ended. Its error is
// tensor.ErrGroup when rank 0, or another rank, is gone.
func Follow(ctx context.Context, engine *tensor.Engine, group *tensor.Group) error {
	r := &ranks{engine: engine, group: group}
	o, err := r.hear(ctx)
	if err != nil || o.Begin == nil {
		return err
	}
	return r.followPhase(ctx, *o.Begin)
}

// followPhase computes one phase.
func (r *ranks) followPhase(ctx context.Context, b beginning) (err error) {
	config, err := architecture.ParseConfig(b.Config)
	if err != nil {
		return err
	}
	model, err := models.Scratch(ctx, r.engine, config, 0) // its weights are rank 0's in a moment
	if err != nil {
		return err
	}
	last := context.WithoutCancel(ctx)
	defer func() { err = errors.Join(err, model.Close(last)) }()
	if b.LoRA != nil {
		if err := model.AddAdapter(ctx, *b.LoRA, 0); err != nil {
			return err
		}
	}
	if err := model.SetTrainable(ctx, true); err != nil {
		return err
	}
	p := &phase{params: model.Trainable(), spec: b.Optimizer, micro: b.Micro, microTokens: b.MicroTokens, task: b.task(model)}
	if err := r.join(ctx, p); err != nil {
		return err
	}
	if err := p.prepare(ctx, r.engine); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close(last, r.engine)) }()
	for {
		o, err := r.hear(ctx)
		if err != nil {
			return err
		}
		switch {
		case o.Step != nil:
			record := curves.Step{LR: o.Step.LR}
			err = p.step(ctx, r.engine, o.Step.Batch, o.Step.Step, &record)
		case o.Weights:
			err = r.weights(ctx, model.Params(), model.Trainable())
		case o.Load:
			err = r.scatter(ctx, p, nil)
		case o.Gather:
			err = r.gather(ctx, p, nil)
		case o.Idle:
		default:
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// task is what a beginning describes.
func (b beginning) task(model *models.Model) task {
	if b.Pairs == nil {
		return &sequenceTask{model: model, rows: b.Rows, compute: b.Compute}
	}
	t := &pairTask{model: model, objective: b.Objective, compute: b.Compute}
	for _, x := range b.Pairs {
		t.pairs = append(t.pairs, pair{
			chosen: x.Chosen, rejected: x.Rejected, refChosen: x.RefChosen, refRejected: x.RefRejected, weight: x.Weight,
			distance: x.Distance, sampled: x.Sampled, same: x.Same,
		})
	}
	return t
}
