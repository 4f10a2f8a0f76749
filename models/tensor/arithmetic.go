package tensor

// #include "shim.h"
import "C"

import (
	"unsafe"

	lib "github.com/sugarme/gotch/libtch"
)

// These operate element by element, with broadcasting. The result's type follows PyTorch's promotion; a whole scalar does
// not change an integer tensor's type.

// Add is t + u.
func (t *Tensor) Add(u *Tensor) *Tensor { return t.binary("Add", u, lib.AtgAdd) }

// Sub is t - u.
func (t *Tensor) Sub(u *Tensor) *Tensor { return t.binary("Sub", u, lib.AtgSub) }

// Mul is t · u.
func (t *Tensor) Mul(u *Tensor) *Tensor { return t.binary("Mul", u, lib.AtgMul) }

// Div is t / u; integers give a floating result.
func (t *Tensor) Div(u *Tensor) *Tensor { return t.binary("Div", u, lib.AtgDiv) }

// AddScalar is t + v.
func (t *Tensor) AddScalar(v float64) *Tensor { return t.scalar("AddScalar", v, lib.AtgAddScalar) }

// SubScalar is t - v.
func (t *Tensor) SubScalar(v float64) *Tensor { return t.scalar("SubScalar", v, lib.AtgSubScalar) }

// MulScalar is t · v.
func (t *Tensor) MulScalar(v float64) *Tensor { return t.scalar("MulScalar", v, lib.AtgMulScalar) }

// DivScalar is t / v.
func (t *Tensor) DivScalar(v float64) *Tensor { return t.scalar("DivScalar", v, lib.AtgDivScalar) }

// Neg is -t.
func (t *Tensor) Neg() *Tensor { return t.unary("Neg", lib.AtgNeg) }

// Relu is max(t, 0).
func (t *Tensor) Relu() *Tensor { return t.unary("Relu", lib.AtgRelu) }

// The transcendental functions give an element the same bits wherever it is in the tensor and whatever surrounds it: see the
// package documentation.

// Exp is eᵗ.
func (t *Tensor) Exp() *Tensor { return t.function("Exp", C.SHIM_EXP) }

// LogSigmoid is log(1/(1+e⁻ᵗ)), without overflow.
func (t *Tensor) LogSigmoid() *Tensor { return t.function("LogSigmoid", C.SHIM_LOG_SIGMOID) }

// Silu is t·sigmoid(t).
func (t *Tensor) Silu() *Tensor { return t.function("Silu", C.SHIM_SILU) }

// Gelu is t·Φ(t) with the normal distribution's Φ.
func (t *Tensor) Gelu() *Tensor { return t.function("Gelu", C.SHIM_GELU) }

// GeluTanh is Gelu's approximation by tanh, "gelu_new" of GPT-2.
func (t *Tensor) GeluTanh() *Tensor { return t.function("GeluTanh", C.SHIM_GELU_TANH) }

func (t *Tensor) function(op string, f C.int) *Tensor {
	s := t.enter(op)
	if s == nil {
		return t.eng.invalid
	}
	return s.shimResult(op, C.shim_map(s.eng.slot0(), unsafe.Pointer(t.c), f))
}

// These operate in place: they change t and return it. A tensor that requires gradients can be changed inside NoGrad only.

// Add_ adds u to t.
func (t *Tensor) Add_(u *Tensor) *Tensor { return t.binaryInPlace("Add_", u, lib.AtgAdd_) }

// MulScalar_ multiplies every element by v.
func (t *Tensor) MulScalar_(v float64) *Tensor {
	return t.scalarInPlace("MulScalar_", v, lib.AtgMulScalar_)
}

// Fill_ sets every element to v.
func (t *Tensor) Fill_(v float64) *Tensor { return t.scalarInPlace("Fill_", v, lib.AtgFill_) }

// EqScalar is t = v, a Bool tensor.
func (t *Tensor) EqScalar(v float64) *Tensor { return t.scalar("EqScalar", v, lib.AtgEq) }

// The forms that most operations of libtch have.

type (
	unaryFn  = func(*lib.Ctensor, lib.Ctensor)
	binaryFn = func(*lib.Ctensor, lib.Ctensor, lib.Ctensor)
	scalarFn = func(*lib.Ctensor, lib.Ctensor, lib.Cscalar)
)

func (t *Tensor) unary(op string, f unaryFn) *Tensor {
	s := t.enter(op)
	if s == nil {
		return t.eng.invalid
	}
	f(&s.eng.out[0], t.c)
	return s.result(op)
}

func (t *Tensor) binary(op string, u *Tensor, f binaryFn) *Tensor {
	s := t.enter(op)
	if s == nil || !s.takes(op, u) {
		return t.eng.invalid
	}
	f(&s.eng.out[0], t.c, u.c)
	return s.result(op)
}

func (t *Tensor) scalar(op string, v float64, f scalarFn) *Tensor {
	s := t.enter(op)
	if s == nil {
		return t.eng.invalid
	}
	c := scalar(v)
	f(&s.eng.out[0], t.c, c)
	lib.AtsFree(c)
	return s.result(op)
}

func (t *Tensor) binaryInPlace(op string, u *Tensor, f binaryFn) *Tensor {
	s := t.enter(op)
	if s == nil || !s.takes(op, u) {
		return t.eng.invalid
	}
	f(&s.eng.out[0], t.c, u.c)
	return s.inPlace(op, t)
}

func (t *Tensor) scalarInPlace(op string, v float64, f scalarFn) *Tensor {
	s := t.enter(op)
	if s == nil {
		return t.eng.invalid
	}
	c := scalar(v)
	f(&s.eng.out[0], t.c, c)
	lib.AtsFree(c)
	return s.inPlace(op, t)
}
