package tensor

// #include "shim.h"
import "C"

import (
	"unsafe"

	lib "github.com/sugarme/gotch/libtch"
)

// Tensor is a handle of a native tensor. It belongs to a scope or, if kept, to the engine. Its methods must be called on the
// engine's thread, that is inside Do.
type Tensor struct {
	c    lib.Ctensor // nil: freed, or the result of a failed operation
	eng  *Engine
	home *arena // that frees it
	slot int    // its index in home
}

// Named is a tensor with a name: a parameter, or a part of an optimizer's state.
type Named struct {
	Name   string
	Tensor *Tensor
}

// Keep moves t out of all scopes: it lives until Free or Engine.Close. It returns t.
func (t *Tensor) Keep() *Tensor {
	if t.enter("Keep") != nil {
		t.moveTo(&t.eng.kept)
	}
	return t
}

// MoveTo moves t to another open scope of its engine, usually an outer one. It returns t.
func (t *Tensor) MoveTo(s *Scope) *Tensor {
	if t.enter("MoveTo") == nil {
		return t
	}
	s.alive()
	if s.takes("MoveTo", t) {
		t.moveTo(&s.arena)
	}
	return t
}

func (t *Tensor) moveTo(a *arena) {
	t.home.remove(t)
	a.add(t)
}

// Free releases t now. Freeing an invalid tensor does nothing.
func (t *Tensor) Free() {
	if t == nil || t.c == nil {
		return
	}
	t.home.remove(t)
	lib.AtFree(t.c)
	t.c = nil
	t.eng.live.Add(-1)
}

// info reads all metadata in one native call.
func (t *Tensor) info(op string) (i C.shim_info_t, ok bool) {
	s := t.enter(op)
	if s == nil {
		return i, false
	}
	if msg := C.shim_info(unsafe.Pointer(t.c), &i); msg != nil {
		s.failNative(op, msg)
		return i, false
	}
	return i, true
}

// Shape returns a new slice with the sizes of all dimensions; nil for an invalid tensor.
func (t *Tensor) Shape() []int64 {
	i, ok := t.info("Shape")
	if !ok {
		return nil
	}
	shape := make([]int64, i.ndim)
	for d := range shape {
		shape[d] = int64(i.shape[d])
	}
	return shape
}

// Size returns the size of one dimension; dim may count from the end (-1 is the last). It is 0 for an invalid tensor.
func (t *Tensor) Size(dim int64) int64 {
	i, ok := t.info("Size")
	if !ok {
		return 0
	}
	d := dim
	if d < 0 {
		d += int64(i.ndim)
	}
	if d < 0 || d >= int64(i.ndim) {
		t.eng.cur.failf("Size", "dimension %d of a tensor with %d dimensions", dim, int64(i.ndim))
		return 0
	}
	return int64(i.shape[d])
}

// Numel returns the number of elements.
func (t *Tensor) Numel() int64 {
	i, _ := t.info("Numel")
	return int64(i.numel)
}

// DType returns the type of the elements.
func (t *Tensor) DType() DType {
	i, ok := t.info("DType")
	if !ok {
		return Float32
	}
	d, known := dtypeOf(int32(i.dtype))
	if !known {
		t.eng.cur.failf("DType", "libtorch's scalar type %d has no DType", int(i.dtype))
	}
	return d
}

// Device returns the device of the elements.
func (t *Tensor) Device() Device {
	i, ok := t.info("Device")
	if !ok {
		return CPU
	}
	return Device(i.device + 1)
}

// Float32s copies all elements in row-major order, converted to float32.
func (t *Tensor) Float32s() []float32 { return read[float32](t, "Float32s", Float32) }

// Float64s copies all elements in row-major order, converted to float64.
func (t *Tensor) Float64s() []float64 { return read[float64](t, "Float64s", Float64) }

// Int64s copies all elements of an integer or bool tensor in row-major order.
func (t *Tensor) Int64s() []int64 {
	i, ok := t.info("Int64s")
	if !ok {
		return nil
	}
	if d, known := dtypeOf(int32(i.dtype)); known && d.Floating() {
		t.eng.cur.failf("Int64s", "the tensor is of %v; convert it with To(Int64) if truncation is meant", d)
		return nil
	}
	return read[int64](t, "Int64s", Int64)
}

// Bytes copies all elements in row-major order as they are in memory (little endian), as safetensors stores them.
func (t *Tensor) Bytes() []byte {
	i, ok := t.info("Bytes")
	if !ok {
		return nil
	}
	b := make([]byte, int64(i.numel)*int64(i.itemsize))
	return readInto(t, "Bytes", int32(i.dtype), b, len(b))
}

// CopyTo is Bytes into dst, which must have the size of all elements.
func (t *Tensor) CopyTo(dst []byte) {
	if i, ok := t.info("CopyTo"); ok {
		readInto(t, "CopyTo", int32(i.dtype), dst, len(dst))
	}
}

// Item returns the value of a tensor with one element; 0 for an invalid tensor.
func (t *Tensor) Item() float64 {
	s := t.enter("Item")
	if s == nil {
		return 0
	}
	var v C.double
	if msg := C.shim_item(unsafe.Pointer(t.c), &v); msg != nil {
		s.failNative("Item", msg)
		return 0
	}
	return float64(v)
}

func read[E float32 | float64 | int64](t *Tensor, op string, d DType) []E {
	i, ok := t.info(op)
	if !ok {
		return nil
	}
	return readInto(t, op, d.native(), make([]E, i.numel), int(i.numel)*d.Size())
}

func readInto[E any](t *Tensor, op string, native int32, dst []E, bytes int) []E {
	msg := C.shim_read(unsafe.Pointer(t.c), C.int(native), unsafe.Pointer(unsafe.SliceData(dst)), C.size_t(bytes))
	if msg != nil {
		t.eng.cur.failNative(op, msg)
		return nil
	}
	return dst
}
