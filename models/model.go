package models

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/safetensors"
	"github.com/ldalign/ldalign/models/tensor"
)

// Options say how a model is loaded.
type Options struct {
	// DType is the type in which the model computes. The weights are converted to it. The zero value is Float32.
	DType tensor.DType
	// Packed loads the model for generating and log-probabilities only, see Model.Packed.
	Packed bool
	// Rounded holds the weights in bfloat16, in half the memory. A packed model rounds its matrices and computes with them in
	// Float32. Any other model computes in BFloat16, whatever DType is.
	Rounded bool
}

// Model is a language model whose weights live on an engine. Methods that take a context use the engine themselves and
// must not be called inside Engine.Do; methods that take a scope are called inside it.
type Model struct {
	eng    *tensor.Engine
	cfg    architecture.Config
	dtype  tensor.DType
	params []tensor.Named
	net    network
	packed map[*tensor.Tensor]*tensor.Packed // nil for a model that is not packed
	// rounded is Options.Rounded.
	rounded bool
	// adapter is nil for a model without one.
	adapter *adapter
}

// networks has a function for each network, which makes it from a configuration and its weights, by name, of type dtype.
// Families with the same network differ in their Traits.
var networks = map[architecture.Network]func(
	s *tensor.Scope, cfg architecture.Config, dtype tensor.DType, weights map[string]*tensor.Tensor,
) network{
	architecture.RotaryNetwork: newRotary,
	architecture.GPT2Network:   newGPT2,
}

// Load reads a Hugging Face folder: config.json and model.safetensors, or the shards of model.safetensors.index.json.
// Weights of another type are converted to opts.DType. Errors wrap architecture.ErrConfig, architecture.ErrWeights, the
// errors of safetensors, or fs.ErrNotExist, and name the folder and the tensor.
func Load(ctx context.Context, eng *tensor.Engine, dir string, opts Options) (*Model, error) {
	cfg, err := architecture.ReadConfig(os.DirFS(dir))
	if err != nil {
		return nil, fmt.Errorf("models: load %s: %w", dir, err)
	}
	files, err := safetensors.OpenModel(dir)
	if err != nil {
		return nil, fmt.Errorf("models: load %s: %w", dir, err)
	}
	defer files.Close()
	m, err := Read(ctx, eng, cfg, files, opts)
	if err != nil {
		return nil, fmt.Errorf("models: load %s: %w", dir, err)
	}
	return m, nil
}

// Read returns a model with a configuration and the weights in src. Errors are those of Load.
func Read(ctx context.Context, eng *tensor.Engine, cfg architecture.Config, src WeightSource, opts Options) (*Model, error) {
	if !opts.DType.Floating() {
		return nil, fmt.Errorf("models: a model cannot compute in %v", opts.DType)
	}
	names, err := cfg.Match(src.Tensors())
	if err != nil {
		return nil, err
	}
	opts.Packed = opts.Packed && packable(eng, opts.DType)
	if opts.Rounded && !opts.Packed {
		opts.DType = tensor.BFloat16
	}
	return build(ctx, eng, cfg, opts,
		func(s *tensor.Scope, w architecture.Weight) (*tensor.Tensor, error) {
			return ReadTensor(s, src, names[w.Name], opts.DType, w.Shape...)
		},
		func(s *tensor.Scope, w architecture.Weight) (*tensor.Packed, error) {
			return readPacked(s, src, names[w.Name], w, opts.Rounded)
		})
}

// build returns a model made of one tensor for each weight or, with opts.Packed, one packed matrix for each weight that can be
// packed. If it fails, it leaves nothing on the engine.
func build(
	ctx context.Context, eng *tensor.Engine, cfg architecture.Config, opts Options,
	tensorOf func(s *tensor.Scope, w architecture.Weight) (*tensor.Tensor, error),
	packedOf func(s *tensor.Scope, w architecture.Weight) (*tensor.Packed, error),
) (_ *Model, err error) {
	m := &Model{eng: eng, cfg: cfg, dtype: opts.DType, rounded: opts.Rounded}
	if opts.Packed {
		m.packed = make(map[*tensor.Tensor]*tensor.Packed)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close(context.WithoutCancel(ctx)))
		}
	}()
	byName := make(map[string]*tensor.Tensor)
	for _, w := range cfg.Weights() {
		err := eng.Do(ctx, func(s *tensor.Scope) error {
			var t *tensor.Tensor
			var packed *tensor.Packed
			var err error
			if opts.Packed && w.Multiplied() {
				packed, err = packedOf(s, w)
				t = s.Zeros(opts.DType, 0) // it only names the weight
			} else {
				t, err = tensorOf(s, w)
			}
			if err != nil || s.Err() != nil {
				return err
			}
			m.params = append(m.params, tensor.Named{Name: w.Name, Tensor: t.Keep()})
			byName[w.Name] = t
			if packed != nil {
				m.packed[t] = packed.Keep()
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.Name, err)
		}
	}
	err = eng.Do(ctx, func(s *tensor.Scope) error {
		m.net = networks[cfg.Traits().Network](s, cfg, opts.DType, byName)
		return nil
	})
	return m, err
}

// Clone returns another model with the same configuration and weights, on the same engine. A model with an adapter cannot be
// cloned.
func (m *Model) Clone(ctx context.Context) (*Model, error) {
	byName := make(map[string]*tensor.Tensor)
	for _, p := range m.params {
		byName[p.Name] = p.Tensor
	}
	if m.packed != nil {
		return nil, fmt.Errorf("models: clone: %w", ErrPacked)
	}
	if m.adapter != nil {
		return nil, fmt.Errorf("models: clone: %w", errUnmerged)
	}
	copied := func(_ *tensor.Scope, w architecture.Weight) (*tensor.Tensor, error) {
		return byName[w.Name].Detach().Clone(), nil
	}
	c, err := build(ctx, m.eng, m.cfg, Options{DType: m.dtype}, copied, nil)
	if err != nil {
		return nil, fmt.Errorf("models: clone: %w", err)
	}
	return c, nil
}

// Close frees the model's tensors. It may be called after the engine was closed.
func (m *Model) Close(ctx context.Context) error {
	err := m.eng.Do(ctx, func(*tensor.Scope) error {
		for _, p := range m.params {
			m.packed[p.Tensor].Free()
			p.Tensor.Free()
		}
		m.adapter.free()
		if m.net != nil {
			for _, t := range m.net.constants() {
				t.Free()
			}
		}
		return nil
	})
	if errors.Is(err, tensor.ErrClosed) { // it freed everything
		return nil
	}
	return err
}

// Config returns the model's configuration.
func (m *Model) Config() architecture.Config { return m.cfg }

// Engine returns the engine of the model's weights.
func (m *Model) Engine() *tensor.Engine { return m.eng }

// DType returns the type of the weights and of the hidden states.
func (m *Model) DType() tensor.DType { return m.dtype }

// Params returns the weights under Hugging Face's names, in the order of the architecture. A tied head is not among them. A
// packed model has none.
func (m *Model) Params() []tensor.Named {
	if m.packed != nil {
		return nil
	}
	return slices.Clone(m.params)
}

// SetTrainable sets whether gradients are computed for Trainable. For a new model they are not.
func (m *Model) SetTrainable(ctx context.Context, on bool) error {
	if m.packed != nil {
		return fmt.Errorf("models: train: %w", ErrPacked)
	}
	return m.eng.Do(ctx, func(*tensor.Scope) error {
		for _, p := range m.Trainable() {
			p.Tensor.RequiresGrad_(on)
		}
		return nil
	})
}

// tokenLogits are the logits of the next token: hidden states h [N, H] -> [N, V].
func (m *Model) tokenLogits(h *tensor.Tensor) *tensor.Tensor {
	return pass{packed: m.packed, adapted: m.adapter.byWeight()}.linear(h, linear{weight: m.net.head()})
}

// Adapter returns the configuration of the model's adapter, if it has one.
func (m *Model) Adapter() (architecture.LoRA, bool) {
	if m.adapter == nil {
		return architecture.LoRA{}, false
	}
	return m.adapter.cfg, true
}

// Trainable returns what training changes: the adapter's matrices A and B under PEFT's names, or Params if the model has no
// adapter. The order is that of the architecture.
func (m *Model) Trainable() []tensor.Named {
	if m.adapter == nil {
		return m.Params()
	}
	return m.adapter.params()
}

// Packed reports whether the weights are packed for inference by token. Compared with plain weights, this is several times as
// fast for the few tokens of a decoding step, gives a token the same bits whatever is computed with it (see Cache), and takes
// half the memory if the file has bfloat16 or the weights are rounded. A packed model has no plain weights: it cannot be trained,
// cloned or written, and does not compute whole sequences. Only Float32 on the CPU is packed; elsewhere Options.Packed has no
// effect.
func (m *Model) Packed() bool { return m.packed != nil }

// Pack packs the plain weights of a model, and frees them one by one.
func (m *Model) Pack(ctx context.Context) error {
	if m.packed != nil || !packable(m.eng, m.dtype) {
		return nil
	}
	if m.adapter != nil {
		return fmt.Errorf("models: pack: %w", errUnmerged)
	}
	return m.eng.Do(ctx, func(*tensor.Scope) error {
		m.packed = make(map[*tensor.Tensor]*tensor.Packed)
		for i, w := range m.cfg.Weights() {
			m.pack(w, m.params[i].Tensor)
		}
		return nil
	})
}

// pack packs the weight w, whose values t holds, and frees t. The network still refers to the weight by t.
func (m *Model) pack(w architecture.Weight, t *tensor.Tensor) {
	if !w.Multiplied() {
		return
	}
	matrix := t
	if w.InFirst {
		matrix = t.Transpose(0, 1)
	}
	m.packed[t] = matrix.Pack().Keep()
	t.Free()
}

// adapterType is the type of an adapter's matrices.
func (m *Model) adapterType() tensor.DType {
	if m.dtype == tensor.Float64 {
		return tensor.Float64
	}
	return tensor.Float32
}

// lossType is the type of log-probabilities.
func (m *Model) lossType() tensor.DType {
	if m.dtype == tensor.Float64 {
		return tensor.Float64
	}
	return tensor.Float32
}

// Takes returns an error if the model does not take a sequence: it has no prompt, is too long, or has an id outside the
// vocabulary. The error wraps ErrSequence.
func (m *Model) Takes(row Sequence) error { return row.fits(m.cfg, 0) }
