package tensor

// #cgo LDFLAGS: -ldl
// #include "shim.h"
import "C"

import (
	"unsafe"
)

// By-token inference: operations whose result for one token depends on that token's own data alone, to the last bit, whatever
// and however many other tokens there are, and on any number of threads. On the CPU in Float32 they are kernels of this
// package (kernels.cpp), several times as fast as libtorch for the few tokens of a decoding step. Unless an operation says so,
// gradients do not flow through it. PackedLinear and the functions named Token… work on the CPU in Float32 only. TokenCache,
// LogSoftmaxAt and Sample also take other types and devices, by libtorch's operations; there the last bit is guaranteed for
// equal shapes only.

// Packed is a matrix [Out, In] in the order in which PackedLinear reads it. A bfloat16 matrix is stored as bfloat16, which halves
// its memory and the time to read it, and computed in Float32. Every other type becomes Float32. A Packed belongs to a scope, as
// a tensor does.
type Packed struct {
	panels  *Tensor // [⌈Out/16⌉, In, 16]
	out, in int64
}

// Pack copies a matrix [Out, In] on the CPU. Its strides may be any.
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

// PackBytes packs a matrix [Out, In] (or [In, Out] if inFirst) from the bytes of a safetensors file, without an intermediate
// copy.
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

// NotFinite returns the index of the first number that is NaN or infinite, in the bytes of a safetensors file. It returns -1 if
// there is none, if the type has no such numbers, and if s has failed.
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

// PackedLinear is t·wᵀ + bias: t Float32 [..., In], w [Out, In], bias Float32 [Out] or nil -> [..., Out]. Each element is a
// sum in a fixed order, so a row's result depends neither on the number of rows nor on the row's place.
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

// TokenRotate rotates the heads of tokens t [M, 1, heads, D] to their positions, Int64 [M], by half-split rotary tables [P, D].
// The first half of sin is negated.
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

// TokenGeluTanhMul is GELU(t)·u, with GELU's approximation by tanh.
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

// TokenRows says which rows the tokens of a step belong to, and where in them they are.
type TokenRows struct {
	// Slots and Positions are Int64 [M]. A row has a slot of a cache; its first token is at position 0.
	Slots, Positions *Tensor
	// the same numbers in Go's memory
	slots, positions []int64
}

// TokenRows returns the rows of a step's tokens, from the slot and the position of each.
func (s *Scope) TokenRows(slots, positions []int64) TokenRows {
	m := int64(len(slots))
	return TokenRows{s.FromInt64(slots, m), s.FromInt64(positions, m), slots, positions}
}

// TokenCache stores the keys and values of rows of tokens, for one layer. The token at position p of a row is in column p mod
// columns, so a cache with fewer columns than positions has the newest ones. A cache lives until Free.
type TokenCache struct {
	keys   *Tensor // [slots+1, heads, D, columns]; the last slot is unused, because the kernels read a little past a slot's end
	values *Tensor // [slots+1, heads, columns, D rounded up]
	// fused is the form for devices other than the CPU, with keys and values [slots+1, heads, columns, D].
	fused bool
}

// cacheStep is the step in which a cache's columns are rounded up, because the kernels read whole vectors.
const cacheStep = 32

// NewTokenCache returns a cache of zeros with the given number of slots and at least the given number of columns.
func (s *Scope) NewTokenCache(d DType, slots, heads, dim, columns int64) *TokenCache {
	return s.newTokenCache(d, slots, heads, dim, columns, s.eng.device != CPU)
}

func (s *Scope) newTokenCache(d DType, slots, heads, dim, columns int64, fused bool) *TokenCache {
	columns = (columns + cacheStep - 1) / cacheStep * cacheStep
	c := &TokenCache{fused: fused}
	if fused {
		c.keys = s.Zeros(d, slots+1, heads, columns, dim).Keep()
		c.values = s.Zeros(d, slots+1, heads, columns, dim).Keep()
		return c
	}
	c.keys = s.Zeros(d, slots+1, heads, dim, columns).Keep()
	c.values = s.Zeros(d, slots+1, heads, columns, int64(C.shim_cache_width(C.int64_t(dim)))).Keep()
	return c
}

// Free releases the cache.
func (c *TokenCache) Free() {
	c.keys.Free()
	c.values.Free()
}

// Store stores the keys and values of tokens, k and v [M, heads, 1, D].
func (c *TokenCache) Store(k, v *Tensor, rows TokenRows) {
	const op = "TokenCache.Store"
	s := k.enter(op)
	if s == nil || !s.takes(op, c.keys) || !s.takes(op, v) || !s.takes(op, rows.Slots) || !s.takes(op, rows.Positions) {
		return
	}
	msg := C.shim_cache_store(unsafe.Pointer(c.keys.c), unsafe.Pointer(c.values.c), unsafe.Pointer(k.c), unsafe.Pointer(v.c),
		unsafe.Pointer(rows.Slots.c), unsafe.Pointer(rows.Positions.c), flag(c.fused))
	if msg != nil {
		s.failNative(op, msg)
	}
}

// Attend is softmax(q·kᵀ·scale)·v for each token, over the stored positions of its row up to its own; with a window over the
// newest window of them (0: all). q [M, Heads, 1, D] -> [M, Heads, 1, D]; Heads is a multiple of the cache's heads, and
// consecutive query heads share one. If n tokens of a row are stored before they attend, a window needs window + n - 1 columns.
func (c *TokenCache) Attend(q *Tensor, rows TokenRows, window int64, scale float64) *Tensor {
	const op = "TokenCache.Attend"
	s := q.enter(op)
	if s == nil || !s.takes(op, c.keys) || !s.takes(op, rows.Slots) || !s.takes(op, rows.Positions) {
		return q.eng.invalid
	}
	keys, values, query := unsafe.Pointer(c.keys.c), unsafe.Pointer(c.values.c), unsafe.Pointer(q.c)
	slots, positions := unsafe.Pointer(rows.Slots.c), unsafe.Pointer(rows.Positions.c)
	if c.fused {
		return s.shimResult(op, C.shim_fused_attend(s.eng.slot0(), keys, values, query, slots, positions,
			(*C.int64_t)(unsafe.Pointer(unsafe.SliceData(rows.slots))), (*C.int64_t)(unsafe.Pointer(unsafe.SliceData(rows.positions))),
			C.size_t(len(rows.slots)), C.int64_t(window), C.double(scale)))
	}
	return s.shimResult(op, C.shim_cache_attend(s.eng.slot0(), keys, values, query, slots, positions, C.int64_t(window),
		C.double(scale)))
}

// LogSoftmaxAt is log softmax(t)[i, target[i]]: t [N, V], target Int64 [N] -> [N], Float32 (Float64 for Float64). On the CPU it
// allocates nothing of the size of t. A row with a number that is not finite gives NaN.
func (t *Tensor) LogSoftmaxAt(target *Tensor) *Tensor {
	s := t.enter("LogSoftmaxAt")
	if s == nil || !s.takes("LogSoftmaxAt", target) {
		return t.eng.invalid
	}
	return s.shimResult("LogSoftmaxAt",
		C.shim_log_softmax_at(s.eng.slot0(), unsafe.Pointer(t.c), unsafe.Pointer(target.c)))
}

// Draw is how Sample turns a row of logits into a token, in this order: the repetition penalty of Keskar et al. (2019) on tokens
// seen before, the bias, temperature, top-k, top-p (Holtzman et al., 2020) and min-p (Nguyen et al., 2024).
type Draw struct {
	Temperature       float64  // divides the logits; 0 takes the greatest
	TopK              int      // samples among the k greatest logits (and those equal to the k-th); 0 means all
	TopP              float64  // samples among the most probable tokens that together reach this probability; 1 means all
	MinP              float64  // samples among tokens with at least this share of the greatest probability; 0 means all
	RepetitionPenalty float64  // divides positive and multiplies negative logits of the tokens seen; 1 means none
	Seen              []int64  // the tokens that the repetition penalty applies to
	Bias              []Scored // added to the logits
	U                 float64  // the random number, in [0, 1), at which the row's cumulative distribution is inverted
	Top               int      // how many of the most probable tokens to list
}

// Scored is a token with a number: an addition to its logit, or its log-probability.
type Scored struct {
	Token int64
	Value float32
}

// Drawn is a token that was drawn. Log-probabilities are those of the logits themselves, before any of Draw's changes.
type Drawn struct {
	Token   int64 // -1 if a logit of the row is not finite, before or after the penalties and the bias
	LogProb float32
	Top     []Scored // the most probable tokens first; of two equal ones, the lower token first
}

// Sample draws a token for each row of logits [N, V], with the settings of that row.
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
		s.failNative("Sample", msg)
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
