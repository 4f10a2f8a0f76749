package models

import "github.com/ldalign/ldalign/models/tensor"

// linear is one linear layer. Networks hold their matrices as linears and apply them by a pass, so that what is added to
// a layer (an adapter) or how it is computed (row by row) is decided in one place.
type linear struct {
	weight  *tensor.Tensor // [Out, In]
	bias    *tensor.Tensor // [Out], nil for none
	inFirst bool           // weight is [In, Out], as GPT-2 stores it
}

// pass is one run of tokens through a network's layers. There are two kinds. Whole sequences, x [B, T, H] at positions
// 0 to T-1: that is training and scoring, and gradients flow. Or single tokens, x [M, 1, H], each at a position of its
// own in a row of its own: that is decoding.
type pass struct {
	// positions is Int64 [M] for single tokens, nil for whole sequences.
	positions *tensor.Tensor
	attend    attention
}

// linear is x·weightᵀ + bias: x [..., In] -> [..., Out].
func (p pass) linear(x *tensor.Tensor, l linear) *tensor.Tensor {
	w := l.weight
	if l.inFirst {
		w = w.Transpose(0, 1)
	}
	return x.Linear(w, l.bias)
}

// rmsNorm is weight·x/√(mean(x²)+eps) over the last dimension: x [..., D], weight [D].
func (p pass) rmsNorm(x, weight *tensor.Tensor, eps float64) *tensor.Tensor {
	return x.RMSNorm(weight, eps)
}

// rotate turns the heads of x [B, T, heads, D] to their positions.
func (p pass) rotate(x *tensor.Tensor, r rope) *tensor.Tensor {
	cos, sin := r.at(x.Size(1), p.positions)
	return rotate(x, cos, sin)
}
