package models

import "github.com/ldalign/ldalign/models/tensor"

// attention lets one layer's queries meet keys and values: q [B, Heads, T, D], k and v [B, KVHeads, T, D] ->
// [B, Heads, T, D].
type attention func(layer int, q, k, v *tensor.Tensor) *tensor.Tensor

// causal is attention within whole sequences, without a mask.
func causal(_ int, q, k, v *tensor.Tensor) *tensor.Tensor {
	if group := q.Size(1) / max(k.Size(1), 1); group > 1 { // each key-value head serves consecutive query heads
		k, v = k.RepeatInterleave(group, 1), v.RepeatInterleave(group, 1)
	}
	return tensor.SDPA(q, k, v, nil, true, 0)
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
