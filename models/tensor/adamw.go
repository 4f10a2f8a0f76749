package tensor

// #include "shim.h"
import "C"

// AdamWOptions are the options of torch.optim.AdamW, whose defaults are 0.9, 0.999, 1e-8 and 0.01. Zeros stay zeros.
type AdamWOptions struct {
	Beta1, Beta2 float64
	Eps          float64
	WeightDecay  float64 // decoupled: multiplied by the learning rate
}

// AdamW is Adam with decoupled weight decay and bias correction, as torch.optim.AdamW. State: exp_avg, exp_avg_sq.
type AdamW struct {
	moments
	options AdamWOptions
}

var _ Optimizer = (*AdamW)(nil)

// NewAdamW returns an optimizer for params. Its state has their names and order.
func NewAdamW(s *Scope, params []Named, o AdamWOptions) (*AdamW, error) {
	m, err := newMoments(s, params, "exp_avg", "exp_avg_sq")
	if err != nil {
		return nil, err
	}
	return &AdamW{moments: m, options: o}, nil
}

// Step updates the parameters once, with learning rate lr.
func (a *AdamW) Step(s *Scope, params, grads []*Tensor, lr float64) error {
	lists, err := a.arguments(s, params, grads, 2)
	if err != nil {
		return err
	}
	o := a.options
	return a.stepped(s, C.shim_adamw(&lists[0][0], &lists[1][0], &lists[2][0], &lists[3][0], C.size_t(len(params)),
		C.int64_t(a.count+1), C.double(lr), C.double(o.Beta1), C.double(o.Beta2), C.double(o.Eps),
		C.double(o.WeightDecay)))
}
