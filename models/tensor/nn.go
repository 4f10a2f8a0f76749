package tensor

// #include "shim.h"
import "C"

import (
	"unsafe"

	lib "github.com/sugarme/gotch/libtch"
)

// Matmul is the matrix product of the last two dimensions: [..., N, K] · [..., K, M] -> [..., N, M].
func (t *Tensor) Matmul(u *Tensor) *Tensor { return t.binary("Matmul", u, lib.AtgMatmul) }

// Linear is t·weightᵀ + bias: t [..., In], weight [Out, In], bias [Out] or nil -> [..., Out].
func (t *Tensor) Linear(weight, bias *Tensor) *Tensor {
	s := t.enter("Linear")
	if s == nil || !s.takes("Linear", weight) || !s.maybe("Linear", bias) {
		return t.eng.invalid
	}
	lib.AtgLinear(&s.eng.out[0], t.c, weight.c, native(bias))
	return s.result("Linear")
}

// Softmax normalises exp(t) along dim.
func (t *Tensor) Softmax(dim int64) *Tensor { return t.softmax("Softmax", dim, 0) }

// LogSoftmax is the logarithm of Softmax, without overflow.
func (t *Tensor) LogSoftmax(dim int64) *Tensor { return t.softmax("LogSoftmax", dim, 1) }

func (t *Tensor) softmax(op string, dim int64, log C.int) *Tensor {
	s := t.enter(op)
	if s == nil {
		return t.eng.invalid
	}
	return s.shimResult(op, C.shim_softmax(s.eng.slot0(), unsafe.Pointer(t.c), C.int64_t(dim), log))
}

// LayerNorm normalises the last dimension to mean 0 and variance 1: t [..., D], weight [D], bias [D] or nil.
func (t *Tensor) LayerNorm(weight, bias *Tensor, eps float64) *Tensor {
	s := t.enter("LayerNorm")
	if s == nil || !s.takes("LayerNorm", weight) || !s.maybe("LayerNorm", bias) {
		return t.eng.invalid
	}
	return s.shimResult("LayerNorm", C.shim_layer_norm(s.eng.slot0(), unsafe.Pointer(t.c), unsafe.Pointer(weight.c),
		unsafe.Pointer(native(bias)), C.double(eps)))
}

// RMSNorm is weight·t/√(mean(t²)+eps) over the last dimension: t [..., D], weight [D]. It is computed in Float32
// (Float64 for a Float64 tensor) and cast back before the weight is applied, as the Llama family does.
func (t *Tensor) RMSNorm(weight *Tensor, eps float64) *Tensor {
	s := t.enter("RMSNorm")
	if s == nil || !s.takes("RMSNorm", weight) {
		return t.eng.invalid
	}
	return s.shimResult("RMSNorm",
		C.shim_rms_norm(s.eng.slot0(), unsafe.Pointer(t.c), unsafe.Pointer(weight.c), C.double(eps)))
}

// SDPA is softmax(q·kᵀ·scale + mask)·v: q [B, H, T, D], k and v [B, H, S, D] -> [B, H, T, D]. mask is nil, Bool (true:
// attend) or floating (added), and is broadcast to [B, H, T, S]. With causal, position t attends to positions up to t, and mask
// must be nil. scale 0 means 1/√D. Without a mask a flash kernel runs, which is several times as fast.
func SDPA(q, k, v, mask *Tensor, causal bool, scale float64) *Tensor {
	s := q.enter("SDPA")
	if s == nil || !s.takes("SDPA", k) || !s.takes("SDPA", v) || !s.maybe("SDPA", mask) {
		return q.eng.invalid
	}
	return s.shimResult("SDPA", C.shim_sdpa(s.eng.slot0(), unsafe.Pointer(q.c), unsafe.Pointer(k.c),
		unsafe.Pointer(v.c), unsafe.Pointer(native(mask)), flag(causal), C.double(scale)))
}

// maybe is takes for an operand that may be nil.
func (s *Scope) maybe(op string, u *Tensor) bool { return u == nil || s.takes(op, u) }

func native(u *Tensor) lib.Ctensor {
	if u == nil {
		return nil
	}
	return u.c
}
