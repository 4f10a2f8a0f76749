package models

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/safetensors"
	"github.com/ldalign/ldalign/models/tensor"
)

// ErrNotFinite means a weight with a NaN or an infinity in it.
var ErrNotFinite = errors.New("models: a weight is not finite: the file is damaged, or its training diverged")

// WeightSource is where weights are read from: a safetensors file, the shards of a model, or a part of either.
type WeightSource interface {
	Tensors() []safetensors.Info
	Tensor(name string) (safetensors.Tensor, error)
}

// elementTypes are the types of tensors in a file that are read and written.
var elementTypes = map[safetensors.DType]tensor.DType{
	safetensors.F32: tensor.Float32, safetensors.BF16: tensor.BFloat16,
	safetensors.F16: tensor.Float16, safetensors.F64: tensor.Float64,
	safetensors.I64: tensor.Int64, // the step count of an optimizer
}

// ReadTensor copies a tensor of src to the engine, converted to dtype. The error wraps architecture.ErrWeights when its shape is
// another one, and ErrNotFinite for numbers that are NaN or infinite.
func ReadTensor(
	s *tensor.Scope, src WeightSource, name string, dtype tensor.DType, shape ...int64,
) (*tensor.Tensor, error) {
	var out *tensor.Tensor
	err := withData(s, src, name, shape, func(from tensor.DType, data []byte) {
		out = s.FromBytes(from, data, shape...).To(dtype)
	})
	return out, err
}

// withData gives f the bytes of a tensor, which must be of the given shape, and gives their memory back behind it.
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

// WriteWeights writes model.safetensors, one tensor after the other, as transformers opens it. A tied head is not
// written twice. A model with an adapter is not written: merge it first.
func (m *Model) WriteWeights(ctx context.Context, w io.Writer) error {
	if m.packed != nil {
		return fmt.Errorf("models: write weights: %w", ErrPacked)
	}
	if m.adapter != nil {
		return fmt.Errorf("models: write weights: %w", errUnmerged)
	}
	if err := WriteTensors(ctx, m.eng, w, m.params); err != nil {
		return fmt.Errorf("models: write weights: %w", err)
	}
	return nil
}

// WriteTensors writes tensors of one engine as a safetensors file in their order, holding one at a time in Go's memory.
func WriteTensors(ctx context.Context, eng *tensor.Engine, w io.Writer, tensors []tensor.Named) error {
	var infos []safetensors.Info
	err := eng.Do(ctx, func(*tensor.Scope) (err error) {
		infos, err = infosOf(tensors)
		return err
	})
	if err != nil {
		return err
	}
	out, err := safetensors.NewWriter(w, infos, fileMetadata())
	if err != nil {
		return err
	}
	defer out.Abort()
	for _, p := range tensors {
		var data []byte
		err := eng.Do(ctx, func(*tensor.Scope) error {
			data = p.Tensor.Bytes()
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
		if err := out.Write(p.Name, data); err != nil {
			return err
		}
	}
	return out.Close()
}

// infosOf describes tensors as a file has them. It is called inside Do.
func infosOf(tensors []tensor.Named) ([]safetensors.Info, error) {
	infos := make([]safetensors.Info, len(tensors))
	for i, p := range tensors {
		dtype, err := elementType(p.Tensor.DType())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.Name, err)
		}
		infos[i] = safetensors.Info{Name: p.Name, DType: dtype, Shape: p.Tensor.Shape()}
	}
	return infos, nil
}

// fileMetadata is what transformers wants to see in a file of weights.
func fileMetadata() map[string]string { return map[string]string{"format": "pt"} }

// elementType is a type's name in a file.
func elementType(d tensor.DType) (safetensors.DType, error) {
	for file, dtype := range elementTypes {
		if dtype == d {
			return file, nil
		}
	}
	return "", fmt.Errorf("%w: %v cannot be written", architecture.ErrWeights, d)
}

// LoadWeights replaces the weights in place by those of a safetensors file with the same names and shapes. When the
// file does not fit, the error wraps architecture.ErrWeights and the model is unchanged. Its numbers are read one tensor after the other:
// after ErrNotFinite the model has a part of them, and is of use only when it is given others.
func (m *Model) LoadWeights(ctx context.Context, path string) error {
	file, err := safetensors.Open(path)
	if err != nil {
		return fmt.Errorf("models: load weights: %w", err)
	}
	defer file.Close()
	if err := m.Replace(ctx, file); err != nil {
		return fmt.Errorf("models: load weights from %s: %w", path, err)
	}
	return nil
}

// Replace is LoadWeights from a source.
func (m *Model) Replace(ctx context.Context, src WeightSource) error {
	names, err := m.cfg.Match(src.Tensors())
	if err != nil {
		return err
	}
	// One call of Do: nobody computes with a model that is half the old one meanwhile, and ctx cannot end in the middle.
	return m.eng.Do(ctx, func(s *tensor.Scope) error {
		return s.NoGrad(func(s *tensor.Scope) error {
			for i, w := range m.cfg.Weights() {
				err := s.Scope(func(s *tensor.Scope) error { return m.replace(s, src, names[w.Name], w, m.params[i].Tensor) })
				if err != nil {
					return fmt.Errorf("%s: %w", w.Name, err)
				}
			}
			return nil
		})
	})
}

// replace reads one weight into its tensor t, or packs it anew.
func (m *Model) replace(s *tensor.Scope, src WeightSource, name string, w architecture.Weight, t *tensor.Tensor) error {
	old := m.packed[t]
	if old == nil {
		fresh, err := ReadTensor(s, src, name, m.dtype, w.Shape...)
		if err == nil {
			t.Copy_(fresh)
		}
		return err
	}
	packed, err := readPacked(s, src, name, w)
	if err != nil || s.Err() != nil {
		return err
	}
	m.packed[t] = packed.Keep()
	old.Free()
	return nil
}
