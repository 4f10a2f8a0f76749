package tensor

// #include "shim.h"
import "C"

import (
	"unsafe"

	lib "github.com/sugarme/gotch/libtch"
)

// Dimensions may count from the end: -1 is the last. A view shares memory with t, so writing to one changes the other.

// Reshape returns a tensor of another shape, as a view if possible, else as a copy. One size may be -1; it is computed.
func (t *Tensor) Reshape(shape ...int64) *Tensor {
	s := t.enter("Reshape")
	if s == nil {
		return t.eng.invalid
	}
	lib.AtgReshape(&s.eng.out[0], t.c, s.eng.size(shape), len(shape))
	return s.result("Reshape")
}

// Roll moves elements by shift places along dim. Those that leave at the end come in at the start.
func (t *Tensor) Roll(shift, dim int64) *Tensor {
	s := t.enter("Roll")
	if s == nil {
		return t.eng.invalid
	}
	shifts, dims := [1]int64{shift}, [1]int64{dim}
	lib.AtgRoll(&s.eng.out[0], t.c, shifts[:], 1, dims[:], 1)
	return s.result("Roll")
}

// Expand broadcasts dimensions of size 1 to shape; -1 leaves a size as it is. A view.
func (t *Tensor) Expand(shape ...int64) *Tensor {
	s := t.enter("Expand")
	if s == nil {
		return t.eng.invalid
	}
	lib.AtgExpand(&s.eng.out[0], t.c, s.eng.size(shape), len(shape), 0)
	return s.result("Expand")
}

// Transpose swaps two dimensions. A view.
func (t *Tensor) Transpose(dim0, dim1 int64) *Tensor {
	s := t.enter("Transpose")
	if s == nil {
		return t.eng.invalid
	}
	lib.AtgTranspose(&s.eng.out[0], t.c, dim0, dim1)
	return s.result("Transpose")
}

// Contiguous returns the elements in row-major order in memory; t's own memory if they are so already.
func (t *Tensor) Contiguous() *Tensor { return t.unary("Contiguous", lib.AtgContiguous) }

// Unsqueeze inserts a dimension of size 1. A view.
func (t *Tensor) Unsqueeze(dim int64) *Tensor {
	s := t.enter("Unsqueeze")
	if s == nil {
		return t.eng.invalid
	}
	lib.AtgUnsqueeze(&s.eng.out[0], t.c, dim)
	return s.result("Unsqueeze")
}

// Squeeze removes dim if its size is 1. A view.
func (t *Tensor) Squeeze(dim int64) *Tensor {
	s := t.enter("Squeeze")
	if s == nil {
		return t.eng.invalid
	}
	lib.AtgSqueezeDim(&s.eng.out[0], t.c, dim)
	return s.result("Squeeze")
}

// Narrow is the part [start, start+length) of dim. A view: with Copy_ it writes into a part of t.
func (t *Tensor) Narrow(dim, start, length int64) *Tensor {
	s := t.enter("Narrow")
	if s == nil {
		return t.eng.invalid
	}
	lib.AtgNarrow(&s.eng.out[0], t.c, dim, start, length)
	return s.result("Narrow")
}

// Select is t at one index of dim, which disappears. A view.
func (t *Tensor) Select(dim, index int64) *Tensor {
	s := t.enter("Select")
	if s == nil {
		return t.eng.invalid
	}
	lib.AtgSelect(&s.eng.out[0], t.c, dim, index)
	return s.result("Select")
}

// RepeatInterleave repeats each slice of dim n times: a a b b for n = 2.
func (t *Tensor) RepeatInterleave(n, dim int64) *Tensor {
	s := t.enter("RepeatInterleave")
	if s == nil {
		return t.eng.invalid
	}
	lib.AtgRepeatInterleaveSelfInt(&s.eng.out[0], t.c, n, dim, 0, 0, 1)
	return s.result("RepeatInterleave")
}

// Cat joins tensors along an existing dimension.
func (s *Scope) Cat(dim int64, ts ...*Tensor) *Tensor { return s.joined("Cat", dim, ts, lib.AtgCat) }

// Stack joins tensors of one shape along a new dimension.
func (s *Scope) Stack(dim int64, ts ...*Tensor) *Tensor {
	return s.joined("Stack", dim, ts, lib.AtgStack)
}

func (s *Scope) joined(op string, dim int64, ts []*Tensor, f func(*lib.Ctensor, []lib.Ctensor, int, int64)) *Tensor {
	if !s.ready() {
		return s.eng.invalid
	}
	list := s.list(op, ts)
	if list == nil {
		return s.eng.invalid
	}
	f(&s.eng.out[0], list, len(list), dim)
	return s.result(op)
}

// Copy_ writes u's elements into t, converting type and device, broadcasting u. It returns t.
func (t *Tensor) Copy_(u *Tensor) *Tensor {
	s := t.enter("Copy_")
	if s == nil || !s.takes("Copy_", u) {
		return t.eng.invalid
	}
	if msg := C.shim_copy(unsafe.Pointer(t.c), unsafe.Pointer(u.c)); msg != nil {
		s.failNative("Copy_", msg)
		return s.eng.invalid
	}
	return t
}

// To converts the elements to another type. It returns t's own memory if t has the type already.
func (t *Tensor) To(d DType) *Tensor {
	s := t.enter("To")
	if s == nil || !s.knows("To", d) {
		return t.eng.invalid
	}
	lib.AtgToDtype(&s.eng.out[0], t.c, d.native(), 0, 0)
	return s.result("To")
}

// Clone copies t to new memory.
func (t *Tensor) Clone() *Tensor {
	s := t.enter("Clone")
	if s == nil {
		return t.eng.invalid
	}
	return s.shimResult("Clone", C.shim_clone(s.eng.slot0(), unsafe.Pointer(t.c)))
}
