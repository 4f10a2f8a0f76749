package models

import "github.com/ldalign/ldalign/models/tensor"

// attention lets one layer's queries meet keys and values: q [B, Heads, T, D], k and v [B, KVHeads, T, D] ->
// [B, Heads, T, D], in the layer's scope.
type attention func(s *tensor.Scope, layer int, q, k, v *tensor.Tensor) *tensor.Tensor

// causal is attention within whole sequences, each position to itself and those before it, in a local layer to no more
// than the window.
func (c Config) causal() attention {
	scale := 0.0 // the usual one
	if c.QueryScalar > 0 {
		scale = c.attentionScale()
	}
	return func(s *tensor.Scope, layer int, q, k, v *tensor.Tensor) *tensor.Tensor {
		if group := q.Size(1) / max(k.Size(1), 1); group > 1 { // each key-value head serves consecutive query heads
			k, v = k.RepeatInterleave(group, 1), v.RepeatInterleave(group, 1)
		}
		if window := int64(c.window(layer)); window > 0 && window < q.Size(2) {
			return banded(s, q, k, v, window, scale)
		}
		return tensor.SDPA(q, k, v, nil, true, scale)
	}
}

// bandStep is what the size of a block of banded is a multiple of: in other shapes a row's last bit depends on which
// thread it meets.
const bandStep = 32

// banded is causal attention of each position to at most window positions. It takes a block of at least window queries at
// a time, with the keys that they can see, so that what it holds is a multiple of T·window and not of T².
func banded(s *tensor.Scope, q, k, v *tensor.Tensor, window int64, scale float64) *tensor.Tensor {
	length, block := q.Size(2), (window+bandStep-1)/bandStep*bandStep
	var parts []*tensor.Tensor
	for at := int64(0); at < length && s.Err() == nil; at += block {
		n, first := min(block, length-at), max(0, at-block)
		keys, before := at+n-first, at-first
		var mask *tensor.Tensor
		if at+n > window { // query i sees keys up to i+before, window of them
			mask = s.Ones(tensor.Float32, n, keys).Tril(before).Triu(before - window + 1).To(tensor.Bool)
		}
		parts = append(parts, tensor.SDPA(q.Narrow(2, at, n), k.Narrow(2, first, keys), v.Narrow(2, first, keys), mask,
			mask == nil, scale))
	}
	return s.Cat(2, parts...)
}

// splitHeads is [B, T, heads·D] -> [B, T, heads, D].
func splitHeads(x *tensor.Tensor, heads, dim int) *tensor.Tensor {
	return x.Reshape(x.Size(0), x.Size(1), int64(heads), int64(dim))
}

// mergeHeads is [B, heads, T, D] -> [B, T, heads·D].
func mergeHeads(x *tensor.Tensor) *tensor.Tensor {
	x = x.Transpose(1, 2)
	return x.Reshape(x.Size(0), x.Size(1), x.Size(2)*x.Size(3))
}
