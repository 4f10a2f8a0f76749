package tensor

// #include "shim.h"
import "C"

import (
	"unsafe"

	lib "github.com/sugarme/gotch/libtch"
)

// Detach shares t's memory and records no gradients.
func (t *Tensor) Detach() *Tensor { return t.unary("Detach", lib.AtgDetach) }

// RequiresGrad_ sets whether gradients are computed for t, which becomes a leaf. It returns t.
func (t *Tensor) RequiresGrad_(on bool) *Tensor {
	s := t.enter("RequiresGrad_")
	if s == nil {
		return t.eng.invalid
	}
	lib.AtgSetRequiresGrad(&s.eng.out[0], t.c, flag32(on))
	return s.inPlace("RequiresGrad_", t)
}

// Backward adds the gradients of t, a tensor with one element, to the Grad of every leaf that requires them.
func (t *Tensor) Backward() {
	s := t.enter("Backward")
	if s == nil {
		return
	}
	if msg := C.shim_backward(unsafe.Pointer(t.c), 0); msg != nil {
		s.failNative("Backward", msg)
	}
}

// Grad returns the gradient that Backward has accumulated for t. It is an error if there is none.
func (t *Tensor) Grad() *Tensor {
	s := t.enter("Grad")
	if s == nil {
		return t.eng.invalid
	}
	return s.shimResult("Grad", C.shim_grad(s.eng.slot0(), unsafe.Pointer(t.c)))
}

// FreeGrads frees the gradients that Backward has accumulated for params. The next Backward starts from zero.
func FreeGrads(s *Scope, params []*Tensor) {
	if !s.ready() {
		return
	}
	if list := s.list("FreeGrads", params); len(list) > 0 {
		C.shim_free_grads(pointers(list), C.size_t(len(list)))
	}
}

func pointers(list []lib.Ctensor) *unsafe.Pointer { return (*unsafe.Pointer)(unsafe.Pointer(&list[0])) }
