package tensor

// #include "shim.h"
import "C"

// RMSpropOptions are the options of torch.optim.RMSprop, whose defaults are 0.99, 1e-8 and 0. Zeros stay zeros.
type RMSpropOptions struct {
	Alpha       float64
	Eps         float64
	WeightDecay float64 // added to the gradient
}

// RMSprop is torch.optim.RMSprop, not centered and without momentum. State: square_avg.
type RMSprop struct {
	moments
	options RMSpropOptions
}

var _ Optimizer = (*RMSprop)(nil)

// NewRMSprop returns an optimizer for params. Its state has their names and order.
func NewRMSprop(s *Scope, params []Named, o RMSpropOptions) (*RMSprop, error) {
	m, err := newMoments(s, params, "square_avg")
	if err != nil {
		return nil, err
	}
	return &RMSprop{moments: m, options: o}, nil
}

// Step updates the parameters once, with learning rate lr.
func (r *RMSprop) Step(s *Scope, params, grads []*Tensor, lr float64) error {
	lists, err := r.arguments(s, params, grads, 1)
	if err != nil {
		return err
	}
	o := r.options
	return r.stepped(s, C.shim_rmsprop(&lists[0][0], &lists[1][0], &lists[2][0], C.size_t(len(params)), C.double(lr),
		C.double(o.Alpha), C.double(o.Eps), C.double(o.WeightDecay)))
}
