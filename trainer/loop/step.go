package loop

import (
	"context"
	"fmt"
	"math"
	"strings"

	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/trainer/curves"
	"github.com/ldalign/ldalign/trainer/task"
)

// newOptimizer makes the optimizer of the phase, with fresh state.
func (p *Phase) newOptimizer(ctx context.Context) error {
	for _, named := range p.Params {
		p.tensors = append(p.tensors, named.Tensor)
	}
	o := p.Plan.Optimizer
	return p.Engine.Do(ctx, func(s *tensor.Scope) (err error) {
		if o.Kind == "adamw" {
			p.optimizer, err = tensor.NewAdamW(s, p.Params, tensor.AdamWOptions{
				Beta1: o.Beta1, Beta2: o.Beta2, Eps: o.Eps, WeightDecay: o.WeightDecay,
			})
			return err
		}
		p.optimizer, err = tensor.NewRMSprop(s, p.Params, tensor.RMSpropOptions{Alpha: o.Alpha, Eps: o.Eps})
		return err
	})
}

// step makes one optimizer step over a batch at the record's learning rate: forward and backward in micro-batches, clip,
// update. It fills in the record.
func (p *Phase) step(ctx context.Context, batch []int, step int, record *curves.Step) error {
	var sums task.Sums
	suspects := batch // the examples that an error about a loss that is not finite names
	for _, part := range p.Plan.Parts(batch, p.Task.Size) {
		err := p.Engine.Do(ctx, func(s *tensor.Scope) error {
			got, err := p.Task.Accumulate(s, part, batch, step)
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
	record.Loss, record.Tokens, record.ResponseTokens, record.Pairs = sums.Loss, sums.Tokens, sums.ResponseTokens, sums.Pairs.Means()
	return p.Engine.Do(ctx, func(s *tensor.Scope) error {
		return s.NoGrad(func(s *tensor.Scope) error {
			grads := make([]*tensor.Tensor, len(p.tensors))
			for i, t := range p.tensors {
				grads[i] = t.Grad()
			}
			limit := p.Plan.Optimizer.Clip
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
					named(suspects, p.batches.Pairs))
			}
			if err := p.optimizer.Step(s, p.tensors, grads, record.LR); err != nil {
				return err
			}
			tensor.FreeGrads(s, p.tensors)
			return s.Err()
		})
	})
}

// named lists up to 8 examples by their ids.
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
