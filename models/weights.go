package models

import (
	"context"
	"fmt"
	"io"

	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/safetensors"
	"github.com/ldalign/ldalign/models/tensor"
)

// WriteWeights writes model.safetensors, one tensor after the other, for transformers to open. It does not write a tied head
// twice. A model with an adapter must be merged first.
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

// LoadWeights replaces the weights in place by those of a safetensors file with the same names and shapes. If the file does not
// fit, the error wraps architecture.ErrWeights and the model is unchanged. LoadWeights reads one tensor after the other, so after
// ErrNotFinite the model has some of the file's weights, and must be given others before it is used.
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
	// One call of Do, so that nobody computes with a half-replaced model and ctx cannot end in the middle.
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

// replace reads one weight into its tensor t, or packs the new one.
func (m *Model) replace(s *tensor.Scope, src WeightSource, name string, w architecture.Weight, t *tensor.Tensor) error {
	old := m.packed[t]
	if old == nil {
		fresh, err := ReadTensor(s, src, name, m.dtype, w.Shape...)
		if err == nil {
			t.Copy_(fresh)
		}
		return err
	}
	packed, err := readPacked(s, src, name, w, m.rounded)
	if err != nil || s.Err() != nil {
		return err
	}
	m.packed[t] = packed.Keep()
	old.Free()
	return nil
}
