package tensor

// #include "shim.h"
import "C"

// ClipGradNorm scales the gradients in place by min(1, limit/(norm+1e-6)), so that their norm is at most limit, and returns the
// norm before: the 2-norm of all elements of all gradients together. If the norm is not finite, the gradients become infinite or
// NaN as well: check it before a Step.
func ClipGradNorm(s *Scope, grads []*Tensor, limit float64) float64 {
	if !s.ready() {
		return 0
	}
	list := s.list("ClipGradNorm", grads)
	if list == nil {
		return 0
	}
	var norm C.double
	msg := C.shim_clip_grad_norm(pointers(list), C.size_t(len(list)), C.double(limit), &norm)
	if msg != nil {
		s.failNative("ClipGradNorm", msg)
	}
	return float64(norm)
}
