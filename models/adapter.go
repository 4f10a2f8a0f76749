package models

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/safetensors"
	"github.com/ldalign/ldalign/models/tensor"
)

// AddAdapter adds an adapter that does not change what the model computes until it is trained: A is uniform between ±1/√In
// (as in PEFT, which calls kaiming_uniform with a = √5) and B is 0. A is a function of the configuration, the seed and the
// layer's name. From then on only the adapter is trained, see Trainable. The error wraps architecture.ErrAdapter, or
// ErrPacked for a packed model; the model is then unchanged.
func (m *Model) AddAdapter(ctx context.Context, cfg architecture.LoRA, seed uint64) error {
	return m.addAdapter(ctx, cfg, nil, func(s *tensor.Scope, w architecture.Weight) (*tensor.Tensor, error) {
		if w.Std == 0 {
			return s.Zeros(tensor.Float32, w.Shape...), nil
		}
		return uniform(s, seed, w.Name, w.Std, w.Shape...), nil
	})
}

// LoadAdapter adds the adapter in a PEFT folder: adapter_config.json and adapter_model.safetensors. The file must hold
// exactly the two matrices of every layer that the configuration chooses, in the right shapes, so an adapter of another
// model is refused. Errors name the folder and wrap architecture.ErrAdapter, the errors of safetensors, fs.ErrNotExist, or
// ErrPacked; the model is then unchanged.
func (m *Model) LoadAdapter(ctx context.Context, dir string) error {
	cfg, err := architecture.ReadLoRA(dir)
	if err != nil {
		return err
	}
	file, err := safetensors.Open(filepath.Join(dir, architecture.AdapterWeightsFile))
	if err != nil {
		return fmt.Errorf("models: load adapter: %w", err)
	}
	defer file.Close()
	err = m.addAdapter(ctx, cfg, file, func(s *tensor.Scope, w architecture.Weight) (*tensor.Tensor, error) {
		return ReadTensor(s, file, w.Name, m.adapterType(), w.Shape...)
	})
	if err != nil {
		return fmt.Errorf("models: load adapter %s: %w", dir, err)
	}
	return nil
}

// addAdapter adds an adapter whose matrices tensorOf makes. src, unless nil, must hold exactly these matrices.
func (m *Model) addAdapter(
	ctx context.Context, cfg architecture.LoRA, src WeightSource,
	tensorOf func(s *tensor.Scope, w architecture.Weight) (*tensor.Tensor, error),
) error {
	if m.packed != nil {
		return fmt.Errorf("models: add an adapter: %w", ErrPacked)
	}
	if m.adapter != nil {
		return fmt.Errorf("models: add an adapter: %w", errUnmerged)
	}
	layers, err := cfg.Plan(m.cfg)
	if err == nil && src != nil {
		err = cfg.Match(m.cfg, src.Tensors())
	}
	if err != nil {
		return err
	}
	matrices := architecture.Matrices(layers)
	fresh := &adapter{cfg: cfg, layers: make([]*lowRank, len(layers)), of: make(map[*tensor.Tensor]*lowRank)}
	return m.eng.Do(ctx, func(s *tensor.Scope) error {
		made := make([]*tensor.Tensor, len(matrices))
		for i, w := range matrices {
			t, err := tensorOf(s, w)
			if err != nil {
				return err
			}
			made[i] = t.To(m.adapterType())
		}
		if s.Err() != nil {
			return s.Err()
		}
		for i, l := range layers {
			low := &lowRank{AdaptedLayer: l, weight: m.params[l.Index].Tensor, a: made[2*i].Keep(), b: made[2*i+1].Keep()}
			fresh.layers[i], fresh.of[low.weight] = low, low
		}
		for _, p := range m.params {
			p.Tensor.RequiresGrad_(false)
		}
		m.adapter = fresh
		return nil
	})
}

// ReplaceAdapter replaces the adapter's matrices in place by those of src. When src does not fit, the error wraps
// architecture.ErrAdapter and the adapter is unchanged.
func (m *Model) ReplaceAdapter(ctx context.Context, src WeightSource) error {
	if m.adapter == nil {
		return fmt.Errorf("%w: the model has none", architecture.ErrAdapter)
	}
	layers, err := m.adapter.cfg.Plan(m.cfg)
	if err == nil {
		err = m.adapter.cfg.Match(m.cfg, src.Tensors())
	}
	if err != nil {
		return err
	}
	matrices := architecture.Matrices(layers)
	return m.eng.Do(ctx, func(s *tensor.Scope) error {
		return s.NoGrad(func(s *tensor.Scope) error {
			params := m.adapter.params()
			fresh := make([]*tensor.Tensor, len(matrices))
			for i, w := range matrices {
				if fresh[i], err = ReadTensor(s, src, w.Name, m.adapterType(), w.Shape...); err != nil {
					return err
				}
			}
			if s.Err() != nil {
				return s.Err()
			}
			for i, p := range params {
				p.Tensor.Copy_(fresh[i])
			}
			return nil
		})
	})
}

// MergeAdapter adds the adapter to the weights, W += scale·B·A in Float32 (Float64 for a Float64 model), and removes it. The
// model computes what it did before, without an adapter. When it has none, the error wraps architecture.ErrAdapter.
func (m *Model) MergeAdapter(ctx context.Context) error {
	if m.adapter == nil {
		return fmt.Errorf("%w: the model has none to merge", architecture.ErrAdapter)
	}
	// One call of Do, so that nobody sees a half-merged model and ctx cannot end in the middle.
	return m.eng.Do(ctx, func(s *tensor.Scope) error {
		return s.NoGrad(func(s *tensor.Scope) error {
			for _, l := range m.adapter.layers {
				err := s.Scope(func(s *tensor.Scope) error {
					update := l.b.Matmul(l.a).MulScalar(l.Scale)
					if l.InFirst {
						update = update.Transpose(0, 1)
					}
					l.weight.Copy_(l.weight.To(update.DType()).Add(update))
					return s.Err()
				})
				if err != nil {
					return fmt.Errorf("%s: %w", l.Module, err)
				}
			}
			m.adapter.free()
			m.adapter = nil
			return nil
		})
	})
}

// WriteAdapter writes adapter_model.safetensors.
func (m *Model) WriteAdapter(ctx context.Context, w io.Writer) error {
	if m.adapter == nil {
		return fmt.Errorf("%w: the model has none to write", architecture.ErrAdapter)
	}
	if err := WriteTensors(ctx, m.eng, w, m.adapter.params()); err != nil {
		return fmt.Errorf("models: write adapter: %w", err)
	}
	return nil
}

// AdapterConfig is the content of adapter_config.json.
func (m *Model) AdapterConfig() ([]byte, error) {
	if m.adapter == nil {
		return nil, fmt.Errorf("%w: the model has none to write", architecture.ErrAdapter)
	}
	return m.adapter.cfg.JSON(m.adapter.layers[0].InFirst)
}
