package models

import (
	"errors"
	"fmt"
	"slices"

	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/safetensors"
	"github.com/ldalign/ldalign/models/tensor"
)

// ErrNotFinite means that a weight has a NaN or an infinity.
var ErrNotFinite = errors.New("models: a weight is not finite: the file is damaged, or its training diverged")

// WeightSource is what weights are read from: a safetensors file, the shards of a model, or a part of either.
type WeightSource interface {
	Tensors() []safetensors.Info
	Tensor(name string) (safetensors.Tensor, error)
}

// elementTypes are the types in a file that can be read and written.
var elementTypes = map[safetensors.DType]tensor.DType{
	safetensors.F32: tensor.Float32, safetensors.BF16: tensor.BFloat16,
	safetensors.F16: tensor.Float16, safetensors.F64: tensor.Float64,
	safetensors.I64: tensor.Int64, // the step count of an optimizer
}

// ReadTensor copies a tensor of src to the engine, converted to dtype. The error wraps architecture.ErrWeights if the tensor
// has another shape, and ErrNotFinite if one of its numbers is NaN or infinite.
func ReadTensor(
	s *tensor.Scope, src WeightSource, name string, dtype tensor.DType, shape ...int64,
) (*tensor.Tensor, error) {
	var out *tensor.Tensor
	err := withData(s, src, name, shape, func(from tensor.DType, data []byte) {
		out = s.FromBytes(from, data, shape...).To(dtype)
	})
	return out, err
}

// withData calls f with the bytes of a tensor, which must have the given shape, and releases their memory afterwards.
func withData(
	s *tensor.Scope, src WeightSource, name string, shape []int64, f func(dtype tensor.DType, data []byte),
) error {
	t, err := src.Tensor(name)
	if err != nil {
		return err
	}
	if !slices.Equal(t.Shape, shape) {
		return fmt.Errorf("%w: %s is %v, want %v", architecture.ErrWeights, name, t.Shape, shape)
	}
	dtype, ok := elementTypes[t.DType]
	if !ok {
		return fmt.Errorf("%w: %s is of type %s", architecture.ErrWeights, name, t.DType)
	}
	if i := s.NotFinite(dtype, t.Data); i >= 0 {
		return fmt.Errorf("%w: %s, element %d of %v", ErrNotFinite, name, i, shape)
	}
	f(dtype, t.Data)
	if mapped, ok := src.(interface{ Release(name string) }); ok {
		mapped.Release(name)
	}
	return nil
}

// elementType is a type's name in a file.
func elementType(d tensor.DType) (safetensors.DType, error) {
	for file, dtype := range elementTypes {
		if dtype == d {
			return file, nil
		}
	}
	return "", fmt.Errorf("%w: %v cannot be written", architecture.ErrWeights, d)
}
