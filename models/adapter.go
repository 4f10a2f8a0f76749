package models

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/ldalign/ldalign/models/safetensors"
	"github.com/ldalign/ldalign/models/tensor"
)

// The files of an adapter, as PEFT names them.
const (
	AdapterConfigFile  = "adapter_config.json"
	AdapterWeightsFile = "adapter_model.safetensors"
)

// errUnmerged is returned for what only a model without an adapter does.
var errUnmerged = fmt.Errorf("%w: the model has one: merge it first", ErrAdapter)

// adapterPrefix stands before a layer's name in PEFT's files.
const adapterPrefix = "base_model.model."

// adapter is the low-rank updates that a model has besides its weights.
type adapter struct {
	cfg    LoRA
	layers []*lowRank // in the order of the architecture
	of     map[*tensor.Tensor]*lowRank
}

// lowRank is the update scale·B·A of one linear layer. Its matrices are of the model's type, for half-precision models
// Float32.
type lowRank struct {
	adaptedLayer
	weight *tensor.Tensor
	a, b   *tensor.Tensor // [R, In], [Out, R]
}

// add is y + scale·(x·Aᵀ)·Bᵀ: x [..., In], y [..., Out].
func (l *lowRank) add(x, y *tensor.Tensor) *tensor.Tensor {
	low := x.To(l.a.DType()).Linear(l.a, nil).MulScalar(l.scale)
	return y.To(l.a.DType()).Add(low.Linear(l.b, nil)).To(y.DType())
}

// byWeight are the updates by the weight that they add to.
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
			tensor.Named{Name: nameA(l.module), Tensor: l.a}, tensor.Named{Name: nameB(l.module), Tensor: l.b})
	}
	return params
}

func nameA(module string) string { return adapterPrefix + module + ".lora_A.weight" }

func nameB(module string) string { return adapterPrefix + module + ".lora_B.weight" }

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

// Adapter is the configuration of the model's adapter, if it has one.
func (m *Model) Adapter() (LoRA, bool) {
	if m.adapter == nil {
		return LoRA{}, false
	}
	return m.adapter.cfg, true
}

// Trainable is what training changes: with an adapter its matrices A and B, under PEFT's names, otherwise Params. The
// order is that of the architecture.
func (m *Model) Trainable() []tensor.Named {
	if m.adapter == nil {
		return m.Params()
	}
	return m.adapter.params()
}

// AddAdapter gives the model an adapter that changes nothing yet: A is uniform between ±1/√In (as PEFT has it from
// kaiming_uniform with a = √5), B is 0. A is a function of the configuration, the seed and the layer's name. From then
// on the adapter alone is trained, see Trainable. The error wraps ErrAdapter, or ErrPacked for a packed model; the
// model is then unchanged.
func (m *Model) AddAdapter(ctx context.Context, cfg LoRA, seed uint64) error {
	return m.addAdapter(ctx, cfg, nil, func(s *tensor.Scope, w weight) (*tensor.Tensor, error) {
		if w.std == 0 {
			return s.Zeros(tensor.Float32, w.shape...), nil
		}
		return uniform(s, seed, w.name, w.std, w.shape...), nil
	})
}

// LoadAdapter gives the model the adapter in a folder of PEFT's: adapter_config.json and adapter_model.safetensors.
// Every layer that the configuration chooses must have its two matrices in the file, of the right shape, and nothing
// else may be there: an adapter of another model is refused. Errors name the folder and wrap ErrAdapter, the errors of
// safetensors, fs.ErrNotExist, or ErrPacked; the model is then unchanged.
func (m *Model) LoadAdapter(ctx context.Context, dir string) error {
	cfg, err := ReadLoRA(dir)
	if err != nil {
		return err
	}
	file, err := safetensors.Open(filepath.Join(dir, AdapterWeightsFile))
	if err != nil {
		return fmt.Errorf("models: load adapter: %w", err)
	}
	defer file.Close()
	err = m.addAdapter(ctx, cfg, file, func(s *tensor.Scope, w weight) (*tensor.Tensor, error) {
		return ReadTensor(s, file, w.name, m.adapterType(), w.shape...)
	})
	if err != nil {
		return fmt.Errorf("models: load adapter %s: %w", dir, err)
	}
	return nil
}

// ReadLoRA is ParseLoRA for the adapter_config.json of a folder.
func ReadLoRA(dir string) (LoRA, error) {
	data, err := readAdapterConfig(dir)
	if err != nil {
		return LoRA{}, err
	}
	cfg, err := ParseLoRA(data)
	if err != nil {
		return LoRA{}, fmt.Errorf("%s: %w", filepath.Join(dir, AdapterConfigFile), err)
	}
	return cfg, nil
}

// AdapterBase is the model that the adapter_config.json of a folder names as the adapter's base: a folder (relative to the
// working directory, as in PEFT), ORG/NAME, or ORG/NAME@REVISION. It is empty when none is named.
func AdapterBase(dir string) (string, error) {
	data, err := readAdapterConfig(dir)
	if err != nil {
		return "", err
	}
	var base struct {
		Name     string `json:"base_model_name_or_path"`
		Revision string `json:"revision"`
	}
	if err := json.Unmarshal(data, &base); err != nil {
		return "", fmt.Errorf("%s: %w: %w", filepath.Join(dir, AdapterConfigFile), ErrAdapter, err)
	}
	if base.Name == "" || base.Revision == "" {
		return base.Name, nil
	}
	if info, err := os.Stat(base.Name); err == nil && info.IsDir() { // a folder has no revisions
		return base.Name, nil
	}
	return base.Name + "@" + base.Revision, nil
}

// CheckAdapter tells what LoadAdapter would refuse of the folder's adapter for a model of this configuration, from
// adapter_config.json and the names and shapes in adapter_model.safetensors.
func CheckAdapter(dir string, cfg Config) (LoRA, error) {
	lora, err := ReadLoRA(dir)
	if err != nil {
		return lora, err
	}
	layers, err := lora.plan(cfg)
	if err != nil {
		return lora, fmt.Errorf("models: load adapter %s: %w", dir, err)
	}
	file, err := safetensors.Open(filepath.Join(dir, AdapterWeightsFile))
	if err != nil {
		return lora, fmt.Errorf("models: load adapter: %w", err)
	}
	defer file.Close()
	if err := matchAdapter(matricesOf(layers), file); err != nil {
		return lora, fmt.Errorf("models: load adapter %s: %w (a %s model)", dir, err, cfg.Family)
	}
	return lora, nil
}

func readAdapterConfig(dir string) ([]byte, error) {
	const most = 1 << 20
	file, err := os.Open(filepath.Join(dir, AdapterConfigFile))
	if err != nil {
		return nil, fmt.Errorf("models: load adapter: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, most))
	if err != nil {
		return nil, fmt.Errorf("models: load adapter: %w", err)
	}
	return data, nil
}

// adapterType is the type of an adapter's matrices.
func (m *Model) adapterType() tensor.DType {
	if m.dtype == tensor.Float64 {
		return tensor.Float64
	}
	return tensor.Float32
}

// addAdapter makes an adapter of one tensor per matrix. src, if there is one, must hold exactly these.
func (m *Model) addAdapter(
	ctx context.Context, cfg LoRA, src Source, tensorOf func(s *tensor.Scope, w weight) (*tensor.Tensor, error),
) error {
	if m.packed != nil {
		return fmt.Errorf("models: add an adapter: %w", ErrPacked)
	}
	if m.adapter != nil {
		return fmt.Errorf("models: add an adapter: %w", errUnmerged)
	}
	layers, err := cfg.plan(m.cfg)
	if err != nil {
		return err
	}
	matrices := matricesOf(layers)
	if src != nil {
		if err := matchAdapter(matrices, src); err != nil {
			return fmt.Errorf("%w (a %s model)", err, m.cfg.Family)
		}
	}
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
			low := &lowRank{adaptedLayer: l, weight: m.params[l.index].Tensor, a: made[2*i].Keep(), b: made[2*i+1].Keep()}
			fresh.layers[i], fresh.of[low.weight] = low, low
		}
		for _, p := range m.params {
			p.Tensor.RequiresGrad_(false)
		}
		m.adapter = fresh
		return nil
	})
}

// adaptedLayer is a linear layer that an adapter chooses.
type adaptedLayer struct {
	module  string // the layer's name in the Hugging Face model
	index   int    // of its weight
	out, in int64
	inFirst bool // its weight is [In, Out]
	rank    int64
	scale   float64
}

// Fits tells whether an adapter of the configuration finds a layer in models of c. The error wraps ErrAdapter.
func (l LoRA) Fits(c Config) error {
	_, err := l.plan(c)
	return err
}

// plan chooses the layers of an adapter, in the order of the architecture.
func (l LoRA) plan(c Config) ([]adaptedLayer, error) {
	choose, err := l.compile()
	if err != nil {
		return nil, err
	}
	var layers []adaptedLayer
	for i, w := range weights(c) {
		if !packs(c, w) || w.name == tokenEmbedding(c.Family) {
			continue // not a linear layer
		}
		module := strings.TrimSuffix(w.name, ".weight")
		if !choose.chooses(module, w.name == "lm_head.weight") {
			continue
		}
		layer := adaptedLayer{
			module: module, index: i, out: w.shape[0], in: w.shape[1], inFirst: w.inFirst, rank: int64(choose.rank(module)),
			scale: choose.scale(module),
		}
		if w.inFirst {
			layer.out, layer.in = layer.in, layer.out
		}
		layers = append(layers, layer)
	}
	if len(layers) == 0 {
		targets, err := l.Targets.MarshalJSON()
		return nil, errors.Join(err, fmt.Errorf("%w: target_modules %s chooses no linear layer of this %s model",
			ErrAdapter, short(targets), c.Family))
	}
	return layers, nil
}

// matricesOf lists A and B of each layer. A's std is half the width of its first values.
func matricesOf(layers []adaptedLayer) []weight {
	var matrices []weight
	for _, l := range layers {
		matrices = append(matrices,
			weight{name: nameA(l.module), shape: []int64{l.rank, l.in}, std: 1 / math.Sqrt(float64(l.in))},
			weight{name: nameB(l.module), shape: []int64{l.out, l.rank}})
	}
	return matrices
}

// matchAdapter tells what in src is not the matrices.
func matchAdapter(matrices []weight, src Source) error {
	known, found := make(map[string]bool), make(map[string]safetensors.Info)
	for _, w := range matrices {
		known[w.name] = true
	}
	var extra []string
	for _, info := range src.Tensors() {
		found[info.Name] = info
		if !known[info.Name] {
			extra = append(extra, info.Name)
		}
	}
	if text := misfits(matrices, found, extra); text != "" {
		return fmt.Errorf("%w: its matrices are not those that its configuration chooses of this model: %s", ErrAdapter, text)
	}
	return nil
}

// ReplaceAdapter replaces the matrices in place by those of src. When src does not fit, the error wraps ErrAdapter and
// the adapter is unchanged.
func (m *Model) ReplaceAdapter(ctx context.Context, src Source) error {
	if m.adapter == nil {
		return fmt.Errorf("%w: the model has none", ErrAdapter)
	}
	layers, err := m.adapter.cfg.plan(m.cfg)
	if err != nil {
		return err
	}
	matrices := matricesOf(layers)
	if err := matchAdapter(matrices, src); err != nil {
		return err
	}
	return m.eng.Do(ctx, func(s *tensor.Scope) error {
		return s.NoGrad(func(s *tensor.Scope) error {
			params := m.adapter.params()
			fresh := make([]*tensor.Tensor, len(matrices))
			for i, w := range matrices {
				if fresh[i], err = ReadTensor(s, src, w.name, m.adapterType(), w.shape...); err != nil {
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

// MergeAdapter adds the adapter to the weights, W += scale·B·A computed in Float32 (Float64 for a Float64 model), and
// takes it off: the model computes what it did before, and is an ordinary one. The error wraps ErrAdapter when there is
// none.
func (m *Model) MergeAdapter(ctx context.Context) error {
	if m.adapter == nil {
		return fmt.Errorf("%w: the model has none to merge", ErrAdapter)
	}
	// One call of Do: nobody sees a model that is half merged, and ctx cannot end in the middle.
	return m.eng.Do(ctx, func(s *tensor.Scope) error {
		return s.NoGrad(func(s *tensor.Scope) error {
			for _, l := range m.adapter.layers {
				err := s.Scope(func(s *tensor.Scope) error {
					update := l.b.Matmul(l.a).MulScalar(l.scale)
					if l.inFirst {
						update = update.Transpose(0, 1)
					}
					l.weight.Copy_(l.weight.To(update.DType()).Add(update))
					return s.Err()
				})
				if err != nil {
					return fmt.Errorf("%s: %w", l.module, err)
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
		return fmt.Errorf("%w: the model has none to write", ErrAdapter)
	}
	if err := WriteTensors(ctx, m.eng, w, m.adapter.params()); err != nil {
		return fmt.Errorf("models: write adapter: %w", err)
	}
	return nil
}

// AdapterConfig is the content of adapter_config.json.
func (m *Model) AdapterConfig() ([]byte, error) {
	if m.adapter == nil {
		return nil, fmt.Errorf("%w: the model has none to write", ErrAdapter)
	}
	return m.adapter.cfg.json(m.adapter.layers[0].inFirst)
}
