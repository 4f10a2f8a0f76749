package tensor

// #cgo LDFLAGS: -ldl
// #include "shim.h"
import "C"

import (
	"unsafe"
)

// By-token inference: operations in which what is computed for one token is a function of that token's own data, to the
// last bit, whatever other tokens there are, how many, and on how many threads. On the CPU in Float32 they are kernels of
// this package (kernels.cpp), several times as fast as libtorch for the few tokens of a decoding step; nowhere do
// gradients flow through them. PackedLinear and the functions named Token… work on the CPU in Float32 only; TokenCache,
// LogSoftmaxAt and Sample take other types and devices as well, by libtorch's operations, where the promise about the
// last bit holds for equal shapes only.

// Packed is a matrix [Out, In] in the order in which PackedLinear reads it. A bfloat16 matrix stays bfloat16, which halves
// its memory and the time to read it, and is computed in Float32; every other type becomes Float32. Like a tensor it
// belongs to a scope.
type Packed struct {
	panels  *Tensor // [⌈Out/16⌉, In, 16]
	out, in int64
}

// Pack copies a matrix [Out, In] on the CPU, of any strides.
func (t *Tensor) Pack() *Packed {
	s := t.enter("Pack")
	if s == nil {
		return &Packed{panels: t.eng.invalid}
	}
	shape := t.Shape()
	if len(shape) != 2 {
		s.failf("Pack", "a tensor of shape %v is no matrix", shape)
		return &Packed{panels: t.eng.invalid}
	}
	panels := s.shimResult("Pack", C.shim_pack(s.eng.slot0(), unsafe.Pointer(t.c)))
	return &Packed{panels: panels, out: shape[0], in: shape[1]}
}

// PackBytes packs a matrix [Out, In] (or [In, Out], when inFirst) that lies in memory as in a safetensors file, without a
// copy of it in between.
func (s *Scope) PackBytes(d DType, data []byte, rows, columns int64, inFirst bool) *Packed {
	if !s.ready() || !s.knows("PackBytes", d) {
		return &Packed{panels: s.eng.invalid}
	}
	panels := s.shimResult("PackBytes", C.shim_pack_data(s.eng.slot0(), unsafe.Pointer(unsafe.SliceData(data)),
		C.size_t(len(data)), C.int(d.native()), C.int64_t(rows), C.int64_t(columns), flag(inFirst)))
	if inFirst {
		rows, columns = columns, rows
	}
	return &Packed{panels: panels, out: rows, in: columns}
}

// NotFinite is the index of the first number that is NaN or infinite among numbers that lie in memory as in a safetensors
// file, or -1: for a type without such numbers, and when s has failed.
func (s *Scope) NotFinite(d DType, data []byte) int64 {
	if !s.ready() || !s.knows("NotFinite", d) || !d.Floating() {
		return -1
	}
	return int64(C.shim_not_finite(unsafe.Pointer(unsafe.SliceData(data)), C.size_t(len(data)), C.int(d.native())))
}

// Keep moves the matrix out of all scopes, as Tensor.Keep does. It returns p.
func (p *Packed) Keep() *Packed {
	p.panels.Keep()
	return p
}

// Free releases the matrix now. Freeing nil does nothing.
func (p *Packed) Free() {
	if p != nil {
		p.panels.Free()
	}
}

// Rows gathers rows of the matrix, as an embedding does: ids Int64 [...] -> Float32 [..., In].
func (p *Packed) Rows(ids *Tensor) *Tensor {
	s := ids.enter("Rows")
	if s == nil || !s.takes("Rows", p.panels) {
		return ids.eng.invalid
	}
	return s.shimResult("Rows",
		C.shim_packed_rows(s.eng.slot0(), unsafe.Pointer(p.panels.c), C.int64_t(p.out), unsafe.Pointer(ids.c)))
}

// PackedLinear is t·wᵀ + bias: t Float32 [..., In], w [Out, In], bias Float32 [Out] or nil -> [..., Out]. Each element is
// a sum in a fixed order, so that a row's result depends neither on the number of rows nor on its place.
func (t *Tensor) PackedLinear(w *Packed, bias *Tensor) *Tensor {
	s := t.enter("PackedLinear")
	if s == nil || !s.takes("PackedLinear", w.panels) || !s.maybe("PackedLinear", bias) {
		return t.eng.invalid
	}
	return s.shimResult("PackedLinear", C.shim_packed_linear(s.eng.slot0(), unsafe.Pointer(t.c),
		unsafe.Pointer(w.panels.c), C.int64_t(w.out), unsafe.Pointer(native(bias))))
}

// TokenRMSNorm is (weight + offset)·t/√(mean(t²)+eps) over the last dimension, with gradients: t [..., D], weight [D].
func (t *Tensor) TokenRMSNorm(weight *Tensor, offset, eps float64) *Tensor {
	s := t.enter("TokenRMSNorm")
	if s == nil || !s.takes("TokenRMSNorm", weight) {
		return t.eng.invalid
	}
	return s.shimResult("TokenRMSNorm", C.shim_token_rms_norm(s.eng.slot0(), unsafe.Pointer(t.c),
		unsafe.Pointer(weight.c), C.double(offset), C.double(eps)))
}

// TokenRotate turns the heads of tokens t [M, 1, heads, D] to their positions, Int64 [M], by half-split rotary tables
// [P, D], of which sin is negative in its first half.
func (t *Tensor) TokenRotate(cos, sin, positions *Tensor) *Tensor {
	const op = "TokenRotate"
	s := t.enter(op)
	if s == nil || !s.takes(op, cos) || !s.takes(op, sin) || !s.takes(op, positions) {
		return t.eng.invalid
	}
	return s.shimResult(op, C.shim_token_rotate(s.eng.slot0(), unsafe.Pointer(t.c), unsafe.Pointer(cos.c),
		unsafe.Pointer(sin.c), unsafe.Pointer(positions.c)))
}

// TokenSiluMul is SiLU(t)·u, with gradients.
func (t *Tensor) TokenSiluMul(u *Tensor) *Tensor { return t.gate("TokenSiluMul", C.SHIM_SILU, u) }

// TokenGeluTanhMul is GELU(t)·u, with GELU in its form by tanh.
func (t *Tensor) TokenGeluTanhMul(u *Tensor) *Tensor {
	return t.gate("TokenGeluTanhMul", C.SHIM_GELU_TANH, u)
}

func (t *Tensor) gate(op string, f C.int, u *Tensor) *Tensor {
	s := t.enter(op)
	if s == nil || !s.takes(op, u) {
		return t.eng.invalid
	}
	return s.shimResult(op, C.shim_token_gate(s.eng.slot0(), f, unsafe.Pointer(t.c), unsafe.Pointer(u.c)))
}

// TokenCache holds keys and values of rows of tokens, for one layer. The token at position p of a row stands in column
// p mod columns, so a cache with fewer columns than positions holds the newest ones. A cache lives until Free.
type TokenCache struct {
	keys   *Tensor // [slots+1, heads, D, columns]; one more slot, because the kernels read a little past the end of a slot
	values *Tensor // [slots+1, heads, columns, D rounded up]
}

// cacheStep is what the number of a cache's columns is rounded up to: the kernels read whole vectors.
const cacheStep = 32

// NewTokenCache makes a cache of zeros for the given number of slots and at least the given number of columns.
func (s *Scope) NewTokenCache(d DType, slots, heads, dim, columns int64) *TokenCache {
	columns = (columns + cacheStep - 1) / cacheStep * cacheStep
	return &TokenCache{
		keys:   s.Zeros(d, slots+1, heads, dim, columns).Keep(),
		values: s.Zeros(d, slots+1, heads, columns, int64(C.shim_cache_width(C.int64_t(dim)))).Keep(),
	}
}

// Free releases the cache.
func (c *TokenCache) Free() {
	c.keys.Free()
	c.values.Free()
}

// Store puts the keys and values of tokens, k and v [M, heads, 1, D], into their rows, slots Int64 [M], at their
// positions, Int64 [M].
func (c *TokenCache) Store(k, v, slots, positions *Tensor) {
	const op = "TokenCache.Store"
	s := k.enter(op)
	if s == nil || !s.takes(op, c.keys) || !s.takes(op, v) || !s.takes(op, slots) || !s.takes(op, positions) {
		return
	}
	msg := C.shim_cache_store(unsafe.Pointer(c.keys.c), unsafe.Pointer(c.values.c), unsafe.Pointer(k.c),
		unsafe.Pointer(v.c), unsafe.Pointer(slots.c), unsafe.Pointer(positions.c))
	if msg != nil {
		s.failf(op, "%s", takeString(msg))
	}
}

// Attend is softmax(q·kᵀ·scale)·v for each token over the stored positions of its row up to its own, the newest window
// of them (0: all): q [M, Heads, 1, D], Heads a multiple of the cache's heads, consecutive query heads sharing one ->
// [M, Heads, 1, D]. With a window the cache needs as many columns as the window and, besides, one less than the number
// of tokens of a row that are stored before they attend.
func (c *TokenCache) Attend(q, slots, positions *Tensor, window int64, scale float64) *Tensor {
	const op = "TokenCache.Attend"
	s := q.enter(op)
	if s == nil || !s.takes(op, c.keys) || !s.takes(op, slots) || !s.takes(op, positions) {
		return q.eng.invalid
	}
	return s.shimResult(op, C.shim_cache_attend(s.eng.slot0(), unsafe.Pointer(c.keys.c), unsafe.Pointer(c.values.c),
		unsafe.Pointer(q.c), unsafe.Pointer(slots.c), unsafe.Pointer(positions.c), C.int64_t(window), C.double(scale)))
}

// LogSoftmaxAt is log softmax(t)[i, target[i]]: t [N, V], target Int64 [N] -> [N], Float32 (Float64 for Float64). On the
// CPU it holds nothing of the size of t; a row that is not all finite gives NaN.
func (t *Tensor) LogSoftmaxAt(target *Tensor) *Tensor {
	s := t.enter("LogSoftmaxAt")
	if s == nil || !s.takes("LogSoftmaxAt", target) {
		return t.eng.invalid
	}
	return s.shimResult("LogSoftmaxAt",
		C.shim_log_softmax_at(s.eng.slot0(), unsafe.Pointer(t.c), unsafe.Pointer(target.c)))
}

// Draw says how Sample turns a row of logits into a token, in this order: the repetition penalty of Keskar et al. (2019) on
// tokens seen before, the bias, temperature, top-k, top-p (Holtzman et al., 2020) and min-p (Nguyen et al., 2024).
type Draw struct {
	Temperature       float64  // divides the logits; 0 takes the greatest
	TopK              int      // the k greatest logits (and those equal to the k-th); 0 is all
	TopP              float64  // the most probable tokens that together reach this probability; 1 is all
	MinP              float64  // tokens with at least this share of the greatest probability; 0 is all
	RepetitionPenalty float64  // divides positive and multiplies negative logits of the tokens seen; 1 is none
	Seen              []int64  // what the repetition penalty is about
	Bias              []Scored // is added to logits
	U                 float64  // where the row's distribution is inverted, in [0, 1)
	Top               int      // how many of the most probable tokens to list
}

// Scored is a token with a number: an addition to its logit, or its log-probability.
type Scored struct {
	Token int64
	Value float32
}

// Drawn is a token that was drawn. Log-probabilities are those of the logits themselves, before all that Draw changes.
type Drawn struct {
	Token   int64 // -1 when a logit of the row is not finite, by itself or with its penalties
	LogProb float32
	Top     []Scored // the most probable tokens first, the lower one where two are equal
}

// Sample draws a token for each row of logits [N, V], by the row's own settings.
func (t *Tensor) Sample(draws []Draw) []Drawn {
	s := t.enter("Sample")
	n := len(draws)
	drawn := make([]Drawn, n)
	if s == nil || n == 0 {
		return drawn
	}
	rows, seen, bias, listed := make([]C.shim_draw_t, n), []int64{}, []C.shim_scored_t{}, 0
	for i, d := range draws {
		rows[i] = C.shim_draw_t{
			temperature: C.double(d.Temperature), top_p: C.double(d.TopP), min_p: C.double(d.MinP),
			repetition_penalty: C.double(d.RepetitionPenalty), u: C.double(d.U), top_k: C.int64_t(d.TopK),
			seen: C.int64_t(len(d.Seen)), biased: C.int64_t(len(d.Bias)), listed: C.int64_t(d.Top),
		}
		seen = append(seen, d.Seen...)
		for _, b := range d.Bias {
			bias = append(bias, C.shim_scored_t{token: C.int64_t(b.Token), value: C.float(b.Value)})
		}
		listed += d.Top
	}
	tokens, logps, list := make([]int64, n), make([]float32, n), make([]C.shim_scored_t, listed)
	msg := C.shim_sample(unsafe.Pointer(t.c), &rows[0], (*C.int64_t)(unsafe.Pointer(unsafe.SliceData(seen))),
		unsafe.SliceData(bias), (*C.int64_t)(unsafe.Pointer(&tokens[0])), (*C.float)(unsafe.Pointer(&logps[0])),
		unsafe.SliceData(list), C.size_t(n))
	if msg != nil {
		s.failf("Sample", "%s", takeString(msg))
		return drawn
	}
	for i, d := range draws {
		drawn[i] = Drawn{Token: tokens[i], LogProb: logps[i]}
		for _, l := range list[:d.Top] {
			if l.token >= 0 {
				drawn[i].Top = append(drawn[i].Top, Scored{Token: int64(l.token), Value: float32(l.value)})
			}
		}
		list = list[d.Top:]
	}
	return drawn
}
