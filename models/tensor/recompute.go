package tensor

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"runtime/cgo"
	"unsafe"

	lib "github.com/sugarme/gotch/libtch"
)

// Recompute is f(x). It keeps only x, and Backward runs f again. f must give the same result for the same x, and must not use
// tensors whose scope has ended by then, except kept ones. Backward must run within the same Do.
func (s *Scope) Recompute(x *Tensor, f func(s *Scope, x *Tensor) *Tensor) *Tensor {
	const op = "Recompute"
	if !s.ready() || !s.takes(op, x) {
		return s.eng.invalid
	}
	e := s.eng
	e.recomputed = append(e.recomputed, f)
	return s.shimResult(op, C.shim_recompute(e.slot0(), unsafe.Pointer(x.c), C.uintptr_t(e.self),
		C.uint64_t(len(e.recomputed)-1)))
}

// goRecompute calls the function of a Recompute for autograd, within Do. It runs on the engine's thread or, in the backward pass
// on a GPU, on a thread of autograd's for which the engine's thread waits.
//
//export goRecompute
func goRecompute(engine C.uintptr_t, id C.uint64_t, x unsafe.Pointer, out *unsafe.Pointer) *C.char {
	e, _ := cgo.Handle(engine).Value().(*Engine)
	outer := e.cur
	if outer == nil || outer.err != nil || uint64(id) >= uint64(len(e.recomputed)) {
		C.shim_free(&x, 1)
		return C.CString("Backward of a Recompute runs in another Do, or its scope has failed")
	}
	var y unsafe.Pointer
	slots := *e.out // the operation that called is still to read its result
	err := outer.Scope(func(s *Scope) (err error) {
		defer func() { // a panic must not cross the frames of C++
			if r := recover(); r != nil {
				err = panicError(r)
			}
		}()
		t := e.recomputed[id](s, s.own(lib.Ctensor(x)))
		if s.err == nil && s.takes("Recompute", t) {
			msg := C.shim_alias(&y, unsafe.Pointer(t.c))
			if msg != nil {
				s.failNative("Recompute", msg)
			}
		}
		return s.err
	})
	*e.out = slots
	if err != nil {
		return C.CString(err.Error())
	}
	*out = y
	return nil
}
