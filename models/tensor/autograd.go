package tensor

// #include "shim.h"
import "C"

import (
	"unsafe"

	lib "github.com/sugarme/gotch/libtch"
)

// Detach shares t's memory and records no gradients.
func (t *Tensor) Detach() *Tensor { return t.unary("Detach", lib.AtgDetach) }

// RequiresGrad_ makes t a leaf that gradients are computed for, or no longer. It returns t.
func (t *Tensor) RequiresGrad_(on bool) *Tensor {
	s := t.enter("RequiresGrad_")
	if s == nil {
		return t.eng.invalid
	}
	lib.AtgSetRequiresGrad(&s.eng.out[0], t.c, flag32(on))
	return s.inPlace("RequiresGrad_", t)
}

// RequiresGrad tells whether gradients flow to t.
func (t *Tensor) RequiresGrad() bool {
	i, ok := t.info("RequiresGrad")
	return ok && i.requires_grad != 0
}

// Backward adds the gradients of t, a tensor with one element, to the Grad of every leaf that requires them.
func (t *Tensor) Backward() {
	s := t.enter("Backward")
	if s == nil {
		return
	}
	if msg := C.shim_backward(unsafe.Pointer(t.c), 0); msg != nil {
		s.failf("Backward", "%s", takeString(msg))
	}
}

// Grad is the gradient that Backward has added up for t; an error when there is none.
func (t *Tensor) Grad() *Tensor {
	s := t.enter("Grad")
	if s == nil {
		return t.eng.invalid
	}
	return s.shimResult("Grad", C.shim_grad(s.eng.slot0(), unsafe.Pointer(t.c)))
}

// FreeGrads frees the gradients that Backward has added up for params; the next Backward starts from nothing.
func FreeGrads(s *Scope, params []*Tensor) {
	if !s.ready() {
		return
	}
	if list := s.list("FreeGrads", params); len(list) > 0 {
		C.shim_free_grads(pointers(list), C.size_t(len(list)))
	}
}

// Grads returns the gradients of loss, a tensor with one element, for each of params, in their order. Nothing is added
// to Grad. A parameter that loss does not depend on is an error. The graph is freed, so it works once for a loss.
func Grads(loss *Tensor, params []*Tensor) []*Tensor {
	s := loss.enter("Grads")
	if s == nil {
		return loss.eng.invalids(len(params))
	}
	list := s.list("Grads", params)
	if list == nil {
		return s.eng.invalids(len(params))
	}
	out := make([]unsafe.Pointer, len(params))
	if msg := C.shim_grads(&out[0], unsafe.Pointer(loss.c), pointers(list), C.size_t(len(list)), 0); msg != nil {
		s.failf("Grads", "%s", takeString(msg))
		return s.eng.invalids(len(params))
	}
	grads := make([]*Tensor, len(out))
	for i, c := range out {
		grads[i] = s.own(lib.Ctensor(c))
	}
	return grads
}

// invalids keeps the length of a list of results, so that a failed scope does not make indexing panic.
func (e *Engine) invalids(n int) []*Tensor {
	ts := make([]*Tensor, n)
	for i := range ts {
		ts[i] = e.invalid
	}
	return ts
}

func pointers(list []lib.Ctensor) *unsafe.Pointer { return (*unsafe.Pointer)(unsafe.Pointer(&list[0])) }
