package tensor

// #include "shim.h"
import "C"

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	lib "github.com/sugarme/gotch/libtch"
)

// Optimizer updates parameters by gradients. Its state is a list of kept tensors in a fixed order, so that a checkpoint can store
// it exactly. All methods must be called inside Do.
type Optimizer interface {
	// Step updates params in place. They must be those of the optimizer, in the same order, with one of grads for each. If
	// Step returns an error for its arguments, nothing has changed.
	Step(s *Scope, params, grads []*Tensor, lr float64) error
	// State returns "step" (Int64, []), the number of steps done, and then, for each kind of average and each parameter,
	// "<kind>.<parameter>" of the parameter's shape. The tensors belong to the optimizer: read them, do not change them.
	State() []Named
	// LoadState copies a State of the same kind and parameters into the optimizer. If names, order or shapes differ, it
	// returns an error and nothing has changed.
	LoadState(s *Scope, state []Named) error
	// Free releases the state.
	Free()
}

// moments is the state that the optimizers share: the count of steps, and running averages of each parameter's size.
type moments struct {
	names []string // of the parameters
	count int64
	state []Named // step, then averages[0] of all parameters, then averages[1] of all, ...
}

// newMoments returns averages of the given kinds, all zero.
func newMoments(s *Scope, params []Named, kinds ...string) (moments, error) {
	if len(params) == 0 {
		return moments{}, errors.New("tensor: optimizer without parameters")
	}
	m := moments{state: []Named{{Name: "step", Tensor: s.Zeros(Int64).Keep()}}}
	for _, p := range params {
		m.names = append(m.names, p.Name)
	}
	for _, kind := range kinds {
		for _, p := range params {
			var zero *Tensor
			err := s.NoGrad(func(s *Scope) error {
				zero = p.Tensor.ZerosLike().Keep()
				return nil
			})
			if err != nil {
				m.Free()
				return moments{}, err
			}
			m.state = append(m.state, Named{Name: kind + "." + p.Name, Tensor: zero})
		}
	}
	return m, s.Err()
}

// State lists the optimizer's tensors.
func (m *moments) State() []Named { return slices.Clone(m.state) }

// LoadState copies state into the optimizer's tensors.
func (m *moments) LoadState(s *Scope, state []Named) error {
	if len(state) != len(m.state) {
		return fmt.Errorf("tensor: optimizer state has %d tensors, want %d", len(state), len(m.state))
	}
	for i, want := range m.state {
		got := state[i]
		if got.Name != want.Name {
			return fmt.Errorf("tensor: optimizer state: tensor %d is %q, want %q", i, got.Name, want.Name)
		}
		if !s.takes("LoadState", got.Tensor) {
			return s.err
		}
		if a, b := got.Tensor.layout(), want.Tensor.layout(); a != b {
			return fmt.Errorf("tensor: optimizer state: %q is %s, want %s", got.Name, a, b)
		}
	}
	if err := s.Err(); err != nil {
		return err
	}
	return s.NoGrad(func(s *Scope) error {
		for i, own := range m.state {
			own.Tensor.Copy_(state[i].Tensor)
		}
		m.count = int64(m.state[0].Tensor.Item())
		return nil
	})
}

// Free releases the state.
func (m *moments) Free() {
	for _, n := range m.state {
		n.Tensor.Free()
	}
	m.state = nil
}

// average returns the list of the k-th kind's averages.
func (m *moments) average(k int) []Named {
	n := len(m.names)
	return m.state[1+k*n : 1+(k+1)*n]
}

// arguments checks a step's arguments and returns their native lists: params, grads, then each kind of average.
func (m *moments) arguments(s *Scope, params, grads []*Tensor, kinds int) ([][]unsafe.Pointer, error) {
	s.alive()
	if err := s.Err(); err != nil {
		return nil, err
	}
	if len(params) != len(m.names) || len(grads) != len(m.names) {
		return nil, fmt.Errorf("tensor: optimizer step with %d parameters and %d gradients, want %d of each",
			len(params), len(grads), len(m.names))
	}
	lists := [][]unsafe.Pointer{s.natives("Step", params), s.natives("Step", grads)}
	for k := range kinds {
		var average []*Tensor
		for i, a := range m.average(k) {
			if s.err != nil {
				return nil, s.err
			}
			want := a.Tensor.layout()
			if p, g := params[i].layout(), grads[i].layout(); p != want || g != want {
				return nil, fmt.Errorf("tensor: optimizer step: parameter %q is %s, its gradient %s, its state %s",
					m.names[i], p, g, want)
			}
			average = append(average, a.Tensor)
		}
		lists = append(lists, s.natives("Step", average))
	}
	return lists, s.err
}

// layout describes shape, type and device, as "float32[3 4] on cpu".
func (t *Tensor) layout() string { return fmt.Sprintf("%v%v on %v", t.DType(), t.Shape(), t.Device()) }

// stepped counts a step that was done.
func (m *moments) stepped(s *Scope, msg *C.char) error {
	if msg != nil {
		s.failNative("Step", msg)
		return s.err
	}
	m.count++
	m.state[0].Tensor.Fill_(float64(m.count))
	return s.err
}

// natives returns list's native tensors in a new slice.
func (s *Scope) natives(op string, ts []*Tensor) []unsafe.Pointer {
	out := make([]unsafe.Pointer, 0, len(ts))
	for _, c := range s.list(op, ts) {
		out = append(out, unsafe.Pointer(c))
	}
	return out
}

// ZerosLike returns zeros of t's shape, type and device.
func (t *Tensor) ZerosLike() *Tensor { return t.unary("ZerosLike", lib.AtgZerosLike) }
