package models

import (
	"github.com/ldalign/ldalign/models/architecture"
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
	// reach makes ready for sequences of a length.
	reach(s *tensor.Scope, length int)
	// constants are the tensors beside the weights.
	constants() []*tensor.Tensor
}

// networks makes each network of a configuration from its weights, by name, of type dtype. Families differ in their Traits.
var networks = map[architecture.Network]func(
	s *tensor.Scope, cfg architecture.Config, dtype tensor.DType, weights map[string]*tensor.Tensor,
) network{
	architecture.RotaryNetwork: newRotary,
	architecture.GPT2Network:   newGPT2,
}
