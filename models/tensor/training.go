package tensor

// #include "shim.h"
import "C"

import (
	"unsafe"
)

// The operations of training compute what their plain counterparts do, but Backward adds the gradient of a weight to the weight's
// Grad at once, in place, without a second matrix of that size. They keep as little as they can for the backward pass.

// TrainLinear is Linear. The weight must be a leaf: [Out, In], or with inFirst [In, Out]. If its type differs from t's, it is
// converted to t's, and its gradient back.
func (t *Tensor) TrainLinear(weight, bias *Tensor, inFirst bool) *Tensor {
	const op = "TrainLinear"
	s := t.enter(op)
	if s == nil || !s.takes(op, weight) || !s.maybe(op, bias) {
		return t.eng.invalid
	}
	return s.shimResult(op, C.shim_train_linear(s.eng.slot0(), unsafe.Pointer(t.c), unsafe.Pointer(weight.c),
		unsafe.Pointer(native(bias)), flag(inFirst)))
}

// TrainEmbedding is Embedding of a leaf t.
func (t *Tensor) TrainEmbedding(ids *Tensor) *Tensor {
	const op = "TrainEmbedding"
	s := t.enter(op)
	if s == nil || !s.takes(op, ids) {
		return t.eng.invalid
	}
	return s.shimResult(op, C.shim_train_embed(s.eng.slot0(), unsafe.Pointer(t.c), unsafe.Pointer(ids.c)))
}

// Segment is a sequence of Length rows among packed rows. Each row attends to the rows of the segment up to its own, and to
// all of the PrefixLength rows from Prefix on, which may belong to another segment or to none.
type Segment struct{ Prefix, PrefixLength, Length int }

// PackedAttention is softmax(q·kᵀ·scale)·v within each of the segments, whose rows follow each other without gaps: q [N,
// Heads, D], k and v [N, heads, D] -> [N, Heads, D]. Heads is a multiple of heads, and consecutive query heads share one. k
// and v may have more rows after the N, as prefixes of segments. A row attends to the newest window of its rows (0: all).
// Attention is computed in Float32 (Float64 for Float64); on a GPU by libtorch's fused kernels, in q's type.
func PackedAttention(q, k, v *Tensor, segments []Segment, window int, scale float64) *Tensor {
	return packedAttention(q, k, v, segments, window, scale, q.eng.device != CPU)
}

func packedAttention(q, k, v *Tensor, segments []Segment, window int, scale float64, fused bool) *Tensor {
	const op = "PackedAttention"
	s := q.enter(op)
	if s == nil || !s.takes(op, k) || !s.takes(op, v) {
		return q.eng.invalid
	}
	numbers, own := make([]C.int64_t, 0, 4*len(segments)), 0
	for _, segment := range segments {
		numbers = append(numbers, C.int64_t(segment.Prefix), C.int64_t(segment.PrefixLength), C.int64_t(own), C.int64_t(segment.Length))
		own += segment.Length
	}
	return s.shimResult(op, C.shim_train_attention(s.eng.slot0(), unsafe.Pointer(q.c), unsafe.Pointer(k.c),
		unsafe.Pointer(v.c), unsafe.SliceData(numbers), C.size_t(len(numbers)), C.int64_t(window), C.double(scale), flag(fused)))
}

// TrainLogProbs is log softmax(t·weightᵀ)[i, target[i]] for an output head: t [N, H], weight a leaf [V, H], target Int64
// [N] -> [N], Float32 (Float64 for Float64). At most most rows of the logits [N, V] exist at a time. If N is greater, the
// backward pass computes them again.
func (t *Tensor) TrainLogProbs(weight, target *Tensor, most int) *Tensor {
	const op = "TrainLogProbs"
	s := t.enter(op)
	if s == nil || !s.takes(op, weight) || !s.takes(op, target) {
		return t.eng.invalid
	}
	return s.shimResult(op, C.shim_train_head(s.eng.slot0(), unsafe.Pointer(t.c), unsafe.Pointer(weight.c),
		unsafe.Pointer(target.c), C.int64_t(most)))
}
