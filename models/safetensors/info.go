package safetensors

import (
	"fmt"
	"math/bits"
)

// DType is an element type by its name in the format.
type DType string

// The element types of the format that fill whole bytes. Those of 4 and 6 bits are not supported.
const (
	Bool   DType = "BOOL"
	U8     DType = "U8"
	I8     DType = "I8"
	F8E5M2 DType = "F8_E5M2"
	F8E4M3 DType = "F8_E4M3"
	F8E8M0 DType = "F8_E8M0"
	I16    DType = "I16"
	U16    DType = "U16"
	F16    DType = "F16"
	BF16   DType = "BF16"
	I32    DType = "I32"
	U32    DType = "U32"
	F32    DType = "F32"
	I64    DType = "I64"
	U64    DType = "U64"
	F64    DType = "F64"
	C64    DType = "C64"
)

// Size is the bytes of one element, 0 for a type that is not supported.
func (d DType) Size() int64 {
	switch d {
	case Bool, U8, I8, F8E5M2, F8E4M3, F8E8M0:
		return 1
	case I16, U16, F16, BF16:
		return 2
	case I32, U32, F32:
		return 4
	case I64, U64, F64, C64:
		return 8
	}
	return 0
}

// Info declares a tensor. A scalar has an empty Shape; a dimension may be 0.
type Info struct {
	Name  string
	DType DType
	Shape []int64
}

// Bytes is the size of the tensor's data. It fails with ErrFormat, naming the tensor, for an unsupported dtype, a
// negative dimension or a size past 2^63-1.
func (i Info) Bytes() (int64, error) {
	size := i.DType.Size()
	if size == 0 {
		return 0, fmt.Errorf("%w: tensor %q: dtype %q is not supported", ErrFormat, i.Name, i.DType)
	}
	total := uint64(size)
	empty := false
	for _, d := range i.Shape {
		if d < 0 {
			return 0, fmt.Errorf("%w: tensor %q: shape %v has a negative dimension", ErrFormat, i.Name, i.Shape)
		}
		if d == 0 {
			empty = true
			continue
		}
		hi, lo := bits.Mul64(total, uint64(d))
		if hi != 0 || lo > 1<<63-1 {
			return 0, fmt.Errorf("%w: tensor %q: shape %v overflows", ErrFormat, i.Name, i.Shape)
		}
		total = lo
	}
	if empty {
		return 0, nil
	}
	return int64(total), nil
}
