package models

import (
	"fmt"

	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/tensor"
)

// errUnmerged is returned by operations that a model with an adapter does not support.
var errUnmerged = fmt.Errorf("%w: the model has one: merge it first", architecture.ErrAdapter)

// adapter is the low-rank updates of a model's weights.
type adapter struct {
	cfg    architecture.LoRA
	layers []*lowRank // in the order of the architecture
	of     map[*tensor.Tensor]*lowRank
}

// lowRank is the update scale·B·A of one linear layer. Its matrices have the model's type, or Float32 for a half-precision
// model.
type lowRank struct {
	architecture.AdaptedLayer
	weight *tensor.Tensor
	a, b   *tensor.Tensor // [R, In], [Out, R]
}

// add is y + scale·(x·Aᵀ)·Bᵀ: x [..., In], y [..., Out].
func (l *lowRank) add(x, y *tensor.Tensor) *tensor.Tensor {
	low := x.To(l.a.DType()).Linear(l.a, nil).MulScalar(l.Scale)
	return y.To(l.a.DType()).Add(low.Linear(l.b, nil)).To(y.DType())
}

// byWeight maps each weight to its update.
func (a *adapter) byWeight() map[*tensor.Tensor]*lowRank {
	if a == nil {
		return nil
	}
	return a.of
}

// params are A and B of each layer under PEFT's names, in the order of the architecture.
func (a *adapter) params() []tensor.Named {
	var params []tensor.Named
	for _, l := range a.layers {
		params = append(params,
			tensor.Named{Name: l.A(), Tensor: l.a}, tensor.Named{Name: l.B(), Tensor: l.b})
	}
	return params
}

// free frees the matrices.
func (a *adapter) free() {
	if a == nil {
		return
	}
	for _, l := range a.layers {
		l.a.Free()
		l.b.Free()
	}
}
