package tensor

// #include "shim.h"
import "C"

import (
	"math"
	"slices"
	"unsafe"

	lib "github.com/sugarme/gotch/libtch"
)

// Zeros returns a tensor of zeros.
func (s *Scope) Zeros(d DType, shape ...int64) *Tensor { return s.Full(d, 0, shape...) }

// Ones returns a tensor of ones.
func (s *Scope) Ones(d DType, shape ...int64) *Tensor { return s.Full(d, 1, shape...) }

// Full returns a tensor whose elements are all v.
func (s *Scope) Full(d DType, v float64, shape ...int64) *Tensor {
	if !s.ready() || !s.knows("Full", d) {
		return s.eng.invalid
	}
	e := s.eng
	c := scalar(v)
	lib.AtgFull(&e.out[0], e.size(shape), len(shape), c, d.native(), e.device.native())
	lib.AtsFree(c)
	return s.result("Full")
}

// FromFloat32 copies data, in row-major order, into a new Float32 tensor.
func (s *Scope) FromFloat32(data []float32, shape ...int64) *Tensor {
	return fromData(s, "FromFloat32", Float32, data, len(data)*4, shape)
}

// FromFloat64 copies data, in row-major order, into a new Float64 tensor.
func (s *Scope) FromFloat64(data []float64, shape ...int64) *Tensor {
	return fromData(s, "FromFloat64", Float64, data, len(data)*8, shape)
}

// FromInt64 copies data, in row-major order, into a new Int64 tensor.
func (s *Scope) FromInt64(data []int64, shape ...int64) *Tensor {
	return fromData(s, "FromInt64", Int64, data, len(data)*8, shape)
}

// FromBytes copies elements as they are in memory (little endian, row-major) into a new tensor. The bytes need no
// alignment and may come from a memory map.
func (s *Scope) FromBytes(d DType, data []byte, shape ...int64) *Tensor {
	return fromData(s, "FromBytes", d, data, len(data), shape)
}

func fromData[E any](s *Scope, op string, d DType, data []E, bytes int, shape []int64) *Tensor {
	if !s.ready() || !s.knows(op, d) {
		return s.eng.invalid
	}
	want := int64(d.Size())
	for _, n := range shape {
		if n < 0 || (n > 0 && want > math.MaxInt64/n) {
			s.failf(op, "impossible shape %v", slices.Clone(shape))
			return s.eng.invalid
		}
		want *= n
	}
	if want != int64(bytes) {
		s.failf(op, "%d bytes of data for %v%v, which takes %d", bytes, d, slices.Clone(shape), want)
		return s.eng.invalid
	}
	e := s.eng
	size := e.size(shape)
	return s.shimResult(op, C.shim_from_data(e.slot0(), unsafe.Pointer(unsafe.SliceData(data)), C.size_t(bytes),
		(*C.int64_t)(unsafe.Pointer(&size[0])), C.int(len(shape)), C.int(d.native()), C.int(e.device.native())))
}

// knows returns false and records an error for a number that is no DType; libtorch would end the process.
func (s *Scope) knows(op string, d DType) bool {
	if int(d) < dtypes {
		return true
	}
	s.failf(op, "%d is not a DType", d)
	return false
}

// scalar returns a native scalar, which the caller must free. A whole number becomes an integer, so that an integer tensor keeps
// its type; with a floating tensor both give the same value.
func scalar(v float64) lib.Cscalar {
	if v == math.Trunc(v) && math.Abs(v) < 1<<53 && !(v == 0 && math.Signbit(v)) {
		return lib.AtsInt(int64(v))
	}
	return lib.AtsFloat(v)
}
