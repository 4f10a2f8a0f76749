package tensor

// What tests look at and programs do not need.

// Valid tells whether t holds a native tensor.
func (t *Tensor) Valid() bool { return t.c != nil }

// RequiresGrad tells whether gradients flow to t.
func (t *Tensor) RequiresGrad() bool {
	i, ok := t.info("RequiresGrad")
	return ok && i.requires_grad != 0
}

// Live is the number of tensors that belong to s itself.
func (s *Scope) Live() int { return len(s.tensors) }

// Threads is the number of threads within one operation of the engine that s is of.
func (*Scope) Threads() int { return libtorchThreads() }

// Bytes is the memory of the matrix.
func (p *Packed) Bytes() int64 { return p.panels.Numel() * int64(p.panels.DType().Size()) }

// FusedTokenCache is NewTokenCache in the form for devices other than the CPU.
func (s *Scope) FusedTokenCache(d DType, slots, heads, dim, columns int64) *TokenCache {
	return s.newTokenCache(d, slots, heads, dim, columns, true)
}

// FusedAttention is PackedAttention in the form for devices other than the CPU.
func FusedAttention(q, k, v *Tensor, segments []Segment, window int, scale float64) *Tensor {
	return packedAttention(q, k, v, segments, window, scale, true)
}

// Bytes is the memory of the cache.
func (c *TokenCache) Bytes() int64 {
	return (c.keys.Numel() + c.values.Numel()) * int64(c.keys.DType().Size())
}
