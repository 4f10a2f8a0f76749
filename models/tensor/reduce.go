package tensor

// #include "shim.h"
import "C"

import (
	"unsafe"

	lib "github.com/sugarme/gotch/libtch"
)

// Sum adds up all elements: [...] -> [].
func (t *Tensor) Sum() *Tensor { return t.reduce("Sum", 0, nil, false) }

// SumDims adds up over dims.
func (t *Tensor) SumDims(keepdim bool, dims ...int64) *Tensor {
	return t.reduce("SumDims", 0, dims, keepdim)
}

// Mean averages all elements of a floating tensor: [...] -> [].
func (t *Tensor) Mean() *Tensor { return t.reduce("Mean", 1, nil, false) }

// MeanDims averages over dims.
func (t *Tensor) MeanDims(keepdim bool, dims ...int64) *Tensor {
	return t.reduce("MeanDims", 1, dims, keepdim)
}

func (t *Tensor) reduce(op string, mean C.int, dims []int64, keepdim bool) *Tensor {
	s := t.enter(op)
	if s == nil {
		return t.eng.invalid
	}
	e := s.eng
	size := e.size(dims)
	return s.shimResult(op, C.shim_reduce(e.slot0(), unsafe.Pointer(t.c), mean, (*C.int64_t)(unsafe.Pointer(&size[0])),
		C.int(len(dims)), flag(keepdim)))
}

// MaxAll is the greatest element: [...] -> [].
func (t *Tensor) MaxAll() *Tensor { return t.unary("MaxAll", lib.AtgMax) }

// All is true when every element of a Bool tensor is: [...] -> [].
func (t *Tensor) All() *Tensor { return t.unary("All", lib.AtgAll) }

// Any is true when some element of a Bool tensor is: [...] -> [].
func (t *Tensor) Any() *Tensor { return t.unary("Any", lib.AtgAny) }

// Max is the greatest element along dim, and its Int64 index.
func (t *Tensor) Max(dim int64, keepdim bool) (values, indices *Tensor) {
	s := t.enter("Max")
	if s == nil {
		return t.eng.invalid, t.eng.invalid
	}
	lib.AtgMaxDim(&s.eng.out[0], t.c, dim, flag32(keepdim))
	return s.results2("Max")
}

// Argmax is the Int64 index of the greatest element along dim.
func (t *Tensor) Argmax(dim int64, keepdim bool) *Tensor {
	s := t.enter("Argmax")
	if s == nil {
		return t.eng.invalid
	}
	lib.AtgArgmax(&s.eng.out[0], t.c, dim, 0, flag32(keepdim))
	return s.result("Argmax")
}

// Sort sorts along dim, keeping the order of equal elements, and gives the Int64 indices of the elements as well.
func (t *Tensor) Sort(dim int64, descending bool) (values, indices *Tensor) {
	s := t.enter("Sort")
	if s == nil {
		return t.eng.invalid, t.eng.invalid
	}
	lib.AtgSortStable(&s.eng.out[0], t.c, 1, dim, flag32(descending))
	return s.results2("Sort")
}

func flag(b bool) C.int {
	if b {
		return 1
	}
	return 0
}

func flag32(b bool) int32 { return int32(flag(b)) }
