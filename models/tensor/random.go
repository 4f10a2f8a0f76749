package tensor

// #include "shim.h"
import "C"

import "unsafe"

// Randn draws from the normal distribution with the engine's generator.
func (s *Scope) Randn(d DType, shape ...int64) *Tensor { return s.random("Randn", 1, d, shape) }

// Uniform draws from [0, 1) with the engine's generator.
func (s *Scope) Uniform(d DType, shape ...int64) *Tensor { return s.random("Uniform", 0, d, shape) }

func (s *Scope) random(op string, normal C.int, d DType, shape []int64) *Tensor {
	if !s.ready() || !s.knows(op, d) {
		return s.eng.invalid
	}
	e := s.eng
	size := e.size(shape)
	return s.shimResult(op, C.shim_random(e.slot0(), e.gen, normal, (*C.int64_t)(unsafe.Pointer(&size[0])),
		C.int(len(shape)), C.int(d.native()), C.int(e.device.native())))
}

// Seed sets the engine's generator. Each engine has one of its own, so engines do not disturb each other.
func (s *Scope) Seed(seed uint64) error {
	return s.nativeError("Seed", C.shim_generator_seed(s.eng.gen, C.uint64_t(seed)))
}

// Threads is the number of threads within one operation of this engine on the CPU.
func (s *Scope) Threads() int { return int(C.shim_threads()) }

// nativeError turns a message of the shim into an error; it does not make the scope fail.
func (s *Scope) nativeError(op string, msg *C.char) error {
	if msg == nil {
		return nil
	}
	return &OpError{Op: op, Message: takeString(msg)}
}
