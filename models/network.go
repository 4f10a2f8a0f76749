package models

import (
	"github.com/ldalign/ldalign/models/tensor"
)

// network is a computation that families share.
type network interface {
	// embed looks up token embeddings: ids Int64 [B, T] -> [B, T, H].
	embed(ids *tensor.Tensor, p pass) *tensor.Tensor
	// hidden runs all layers and the final norm: x [B, T, H] -> [B, T, H].
	hidden(x *tensor.Tensor, p pass) *tensor.Tensor
	// head is the output matrix [V, H].
	head() *tensor.Tensor
	// reach prepares for sequences of a length.
	reach(s *tensor.Scope, length int)
	// constants are the tensors that are no weights.
	constants() []*tensor.Tensor
}
