package loop

import (
	"context"
	"fmt"
	"math"
	"strings"

	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/trainer/curves"
	"github.com/ldalign/ldalign/trainer/ranks"
	"github.com/ldalign/ldalign/trainer/schedule"
	"github.com/ldalign/ldalign/trainer/task"
)

// stepper computes the optimizer steps of a phase, or a rank's share of them.
type stepper struct {
	engine *tensor.Engine
	plan   schedule.Plan
	task   task.Task
	params []tensor.Named
	// tensors are those of params.
	tensors   []*tensor.Tensor
	optimizer tensor.Optimizer
	// ranks is the group that computes each step together; nil if this process computes it alone.
	ranks *ranks.Group
}

// newStepper makes the optimizer of a phase with fresh state. If group is not nil, group.Divide must have been called.
func newStepper(
	ctx context.Context, engine *tensor.Engine, plan schedule.Plan, t task.Task, params []tensor.Named, group *ranks.Group,
) (*stepper, error) {
	st := &stepper{engine: engine, plan: plan, task: t, params: params, ranks: group}
	for _, named := range params {
		st.tensors = append(st.tensors, named.Tensor)
	}
	owned := params
	if group != nil {
		owned = group.Owned(params)
	}
	o := plan.Optimizer
	err := engine.Do(ctx, func(s *tensor.Scope) (err error) {
		if o.Kind == "adamw" {
			st.optimizer, err = tensor.NewAdamW(s, owned, tensor.AdamWOptions{
				Beta1: o.Beta1, Beta2: o.Beta2, Eps: o.Eps, WeightDecay: o.WeightDecay,
			})
			return err
		}
		st.optimizer, err = tensor.NewRMSprop(s, owned, tensor.RMSpropOptions{Alpha: o.Alpha, Eps: o.Eps})
		return err
	})
	return st, err
}

// close frees the optimizer's state.
func (st *stepper) close(ctx context.Context) error {
	return st.engine.Do(ctx, func(*tensor.Scope) error {
		st.optimizer.Free()
		return nil
	})
}

// step makes one optimizer step over a batch at the record's learning rate: forward and backward in micro-batches, clip,
// update. It fills in the record. ids are the names of the examples in errors.
func (st *stepper) step(ctx context.Context, batch []int, step int, record *curves.Step, ids []string) error {
	var sums task.Sums
	suspects := batch // the examples that an error about a loss that is not finite names
	share := batch
	if st.ranks != nil {
		share = st.ranks.Share(batch)
	}
	for _, part := range st.plan.Parts(share, st.task.Size) {
		err := st.engine.Do(ctx, func(s *tensor.Scope) error {
			got, err := st.task.Accumulate(s, part, batch, step)
			if err != nil {
				return err
			}
			if finite(sums.Loss) && !finite(got.Loss) {
				suspects = part
			}
			sums.Add(got)
			return s.Err()
		})
		if err != nil {
			return err
		}
	}
	if st.ranks != nil {
		all, err := ranks.Gather(ctx, st.ranks, sums)
		if err != nil {
			return err
		}
		sums = task.Sums{}
		for _, one := range all {
			sums.Add(one)
		}
	}
	record.Loss, record.Tokens, record.ResponseTokens, record.Pairs = sums.Loss, sums.Tokens, sums.ResponseTokens, sums.Pairs.Means()
	return st.engine.Do(ctx, func(s *tensor.Scope) error {
		return s.NoGrad(func(s *tensor.Scope) error {
			grads := make([]*tensor.Tensor, len(st.tensors))
			for i, t := range st.tensors {
				if len(share) == 0 { // this rank has computed nothing
					grads[i] = t.ZerosLike()
					continue
				}
				grads[i] = t.Grad()
			}
			if st.ranks != nil {
				if err := st.ranks.Sum(s, grads...); err != nil {
					return err
				}
			}
			limit := st.plan.Optimizer.Clip
			if limit == 0 {
				limit = math.Inf(1)
			}
			norm := tensor.ClipGradNorm(s, grads, limit)
			if err := s.Err(); err != nil {
				return err
			}
			record.GradNorm = norm
			if !finite(record.Loss) || !finite(norm) {
				return fmt.Errorf("loss %v, gradient norm %v: not finite for %s; this step has not changed the weights "+
					"(check these pairs, lower optimizer.lr or objective.beta, or set optimizer.clip)", record.Loss, norm,
					named(suspects, ids))
			}
			if err := st.update(s, grads, record.LR); err != nil {
				return err
			}
			tensor.FreeGrads(s, st.tensors)
			return s.Err()
		})
	})
}

// update applies the gradients to the parameters.
func (st *stepper) update(s *tensor.Scope, grads []*tensor.Tensor, lr float64) error {
	if st.ranks == nil {
		return st.optimizer.Step(s, st.tensors, grads, lr)
	}
	var params, own []*tensor.Tensor
	for i := range st.tensors {
		if st.ranks.Owns(i) {
			params, own = append(params, st.tensors[i]), append(own, grads[i])
		}
	}
	if err := st.optimizer.Step(s, params, own, lr); err != nil {
		return err
	}
	return st.ranks.Update(s, st.tensors)
}

// named lists examples by their ids, up to 8.
func named(examples []int, ids []string) string {
	const most = 8
	var names []string
	for _, i := range examples[:min(len(examples), most)] {
		name := fmt.Sprint("number ", i)
		if i < len(ids) {
			name = ids[i]
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
