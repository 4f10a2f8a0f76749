package models

import "github.com/ldalign/ldalign/models/tensor"

// HiddenWith is Hidden with one more key and value in front of every layer's own, which all positions see: memory
// [B, Layers, KVHeads·D], the same vector as key and as value. What a PackedBatch with a memory computes is held against it.
func (m *Model) HiddenWith(s *tensor.Scope, emb, memory *tensor.Tensor) *tensor.Tensor {
	attend := causal(m.cfg)
	return m.hidden(s, emb, func(s *tensor.Scope, layer int, q, k, v *tensor.Tensor) *tensor.Tensor {
		more := splitHeads(memory.Narrow(1, int64(layer), 1), m.cfg.KVHeads, m.cfg.HeadDim).Transpose(1, 2) // [B, KVHeads, 1, D]
		// A query in front, whose answer is thrown away, makes position t see the memory and the positions up to t by the
		// rule of causal attention.
		a := attend(s, layer, s.Cat(2, q.Narrow(2, 0, 1), q), s.Cat(2, more, k), s.Cat(2, more, v))
		return a.Narrow(2, 1, q.Size(2))
	})
}
