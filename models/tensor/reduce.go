package tensor

// #include "shim.h"
import "C"

import "unsafe"

// Sum adds up all elements: [...] -> [].
func (t *Tensor) Sum() *Tensor { return t.sum("Sum", nil, false) }

// SumDims adds up over dims.
func (t *Tensor) SumDims(keepdim bool, dims ...int64) *Tensor {
	return t.sum("SumDims", dims, keepdim)
}

func (t *Tensor) sum(op string, dims []int64, keepdim bool) *Tensor {
	s := t.enter(op)
	if s == nil {
		return t.eng.invalid
	}
	e := s.eng
	size := e.size(dims)
	return s.shimResult(op, C.shim_sum(e.slot0(), unsafe.Pointer(t.c), (*C.int64_t)(unsafe.Pointer(&size[0])),
		C.int(len(dims)), flag(keepdim)))
}

func flag(b bool) C.int {
	if b {
		return 1
	}
	return 0
}

func flag32(b bool) int32 { return int32(flag(b)) }
