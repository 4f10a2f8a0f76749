package models

import "github.com/ldalign/ldalign/models/tensor"

// attention is one layer's attention of queries to keys and values: q [B, Heads, T, D], k and v [B, KVHeads, T, D] ->
// [B, Heads, T, D], in the layer's scope.
type attention func(s *tensor.Scope, layer int, q, k, v *tensor.Tensor) *tensor.Tensor

// splitHeads is [B, T, heads·D] -> [B, T, heads, D].
func splitHeads(x *tensor.Tensor, heads, dim int) *tensor.Tensor {
	return x.Reshape(x.Size(0), x.Size(1), int64(heads), int64(dim))
}

// mergeHeads is [B, heads, T, D] -> [B, T, heads·D].
func mergeHeads(x *tensor.Tensor) *tensor.Tensor {
	x = x.Transpose(1, 2)
	return x.Reshape(x.Size(0), x.Size(1), x.Size(2)*x.Size(3))
}
