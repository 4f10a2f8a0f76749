package models

import "github.com/ldalign/ldalign/models/tensor"

// linear is one linear layer. Networks hold their matrices as linears and apply them by a pass, so that one place decides
// what is added to a layer (an adapter) and how it is computed (packed, or in training).
type linear struct {
	weight  *tensor.Tensor // [Out, In]
	bias    *tensor.Tensor // [Out], nil for none
	inFirst bool           // weight is [In, Out], as GPT-2 stores it
}

// pass is one run of tokens through a network's layers. There are two kinds. A pass by token has x [M, 1, H], where each
// token has its own row and position; inference (see Cache) and training (see PackedBatch) use it. A pass over whole
// sequences has x [B, T, H] at positions 0 to T-1; it is the plain form, which tests compare the others with.
type pass struct {
	// scope is where a layer's result goes, see block.
	scope  *tensor.Scope
	attend attention
	// positions is Int64 [M] by token, nil for whole sequences.
	positions *tensor.Tensor
	// packed are the packed weights, by the tensors that they were packed from; nil for a model that is not packed.
	packed map[*tensor.Tensor]*tensor.Packed
	// adapted are the updates of an adapter, by the weight that they update; nil without an adapter.
	adapted map[*tensor.Tensor]*lowRank
	// train is nil unless gradients flow by token, see PackedBatch.
	train *training
}

// fast tells whether the by-token kernels are used: on the CPU in Float32, as a packed model is.
func (p pass) fast() bool { return p.packed != nil || p.train != nil && p.train.kernels }

// block is f(x) for one of a network's layers. It keeps only the result and, where gradients flow, what the backward pass
// needs. It frees x.
func (p pass) block(
	x *tensor.Tensor, f func(s *tensor.Scope, x *tensor.Tensor) *tensor.Tensor,
) *tensor.Tensor {
	var y *tensor.Tensor
	if p.train != nil && p.train.how.Recompute {
		y = p.scope.Recompute(x, f)
	} else {
		y = p.scope.Result(func(s *tensor.Scope) *tensor.Tensor { return f(s, x) })
	}
	x.Free()
	return y
}

// linear is x·weightᵀ + bias, plus the layer's low-rank update if an adapter has one: x [..., In] -> [..., Out].
func (p pass) linear(x *tensor.Tensor, l linear) *tensor.Tensor {
	if w := p.packed[l.weight]; w != nil {
		return x.PackedLinear(w, l.bias)
	}
	var y *tensor.Tensor
	switch {
	case p.train != nil:
		y = x.TrainLinear(l.weight, l.bias, l.inFirst)
	case l.inFirst:
		y = x.Linear(l.weight.Transpose(0, 1), l.bias)
	default:
		y = x.Linear(l.weight, l.bias)
	}
	if low := p.adapted[l.weight]; low != nil {
		y = low.add(x, y)
	}
	return y
}

// embed looks up rows of an embedding matrix [V, H]: ids Int64 [...] -> [..., H].
func (p pass) embed(matrix, ids *tensor.Tensor) *tensor.Tensor {
	if w := p.packed[matrix]; w != nil {
		return w.Rows(ids)
	}
	if p.train != nil {
		x := matrix.TrainEmbedding(ids)
		if p.train.how.BFloat16 {
			x = x.To(tensor.BFloat16)
		}
		return x
	}
	return matrix.Embedding(ids)
}

// rmsNorm is an RMSNorm: (weight + offset)·x/√(mean(x²)+eps). Without a weight it does nothing.
type rmsNorm struct {
	weight      *tensor.Tensor // [D]
	offset, eps float64
}

// rmsNorm normalises the last dimension: x [..., D].
func (p pass) rmsNorm(x *tensor.Tensor, n rmsNorm) *tensor.Tensor {
	switch {
	case n.weight == nil:
		return x
	case p.fast():
		return x.TokenRMSNorm(n.weight, n.offset, n.eps)
	case n.offset == 0:
		return x.RMSNorm(n.weight, n.eps).To(x.DType())
	}
	// Gemma rounds once, at the end.
	wide := tensor.Float32
	if x.DType() == tensor.Float64 {
		wide = tensor.Float64
	}
	return x.To(wide).RMSNorm(n.weight.To(wide).AddScalar(n.offset), n.eps).To(x.DType())
}

// rotate turns the heads of x [B, T, heads, D] to their positions.
func (p pass) rotate(x *tensor.Tensor, r *rope) *tensor.Tensor {
	if p.fast() {
		return x.TokenRotate(r.cos, r.sin, p.positions)
	}
	cos, sin := r.at(x.Size(1), p.positions)
	return rotate(x, cos, sin).To(x.DType())
}

// siluMul is SiLU(a)·b.
func (p pass) siluMul(a, b *tensor.Tensor) *tensor.Tensor {
	if p.fast() {
		return a.TokenSiluMul(b)
	}
	return a.Silu().Mul(b)
}

// geluMul is GELU(a)·b, with GELU in its form by tanh.
func (p pass) geluMul(a, b *tensor.Tensor) *tensor.Tensor {
	if p.fast() {
		return a.TokenGeluTanhMul(b)
	}
	return a.GeluTanh().Mul(b)
}
