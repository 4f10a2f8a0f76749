package tensor

// #include "shim.h"
import "C"

// GlobalNorm is the 2-norm of all elements of all gradients taken together; 0 when s has failed.
func GlobalNorm(s *Scope, grads []*Tensor) float64 {
	if !s.ready() {
		return 0
	}
	list := s.list("GlobalNorm", grads)
	if list == nil {
		return 0
	}
	var norm C.double
	if msg := C.shim_global_norm(pointers(list), C.size_t(len(list)), &norm); msg != nil {
		s.failf("GlobalNorm", "%s", takeString(msg))
	}
	return float64(norm)
}

// ClipGradNorm scales the gradients in place by min(1, limit/(norm+1e-6)), so that their GlobalNorm is at most limit,
// and returns the norm before. A norm that is not finite makes the gradients so as well: look at it before a Step.
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
		s.failf("ClipGradNorm", "%s", takeString(msg))
	}
	return float64(norm)
}
