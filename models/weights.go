package models

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/ldalign/ldalign/models/safetensors"
	"github.com/ldalign/ldalign/models/tensor"
)

var (
	// ErrWeights means weights that are not those of the configuration: a tensor is missing, too many, of another shape or
	// of a type that is not supported.
	ErrWeights = errors.New("models: weights do not fit the configuration")
	// ErrNotFinite means a weight with a NaN or an infinity in it.
	ErrNotFinite = errors.New("models: a weight is not finite: the file is damaged, or its training diverged")
)

// weight is one parameter of an architecture.
type weight struct {
	name  string
	shape []int64
	// std is the standard deviation of a fresh weight around 0; without one the weight starts at fill.
	std, fill float64
	// inFirst says that a matrix is [In, Out], as GPT-2 stores it.
	inFirst bool
}

// weights are the parameters of an architecture, in their fixed order.
func weights(cfg Config) []weight {
	if cfg.Family == GPT2 {
		return gpt2Weights(cfg)
	}
	return llamaWeights(cfg)
}

// Source is where weights are read from: a safetensors file, the shards of a model, or a part of either.
type Source interface {
	Tensors() []safetensors.Info
	Tensor(name string) (safetensors.Tensor, error)
}

// fileDTypes are the types that tensors may have in a file.
var fileDTypes = map[safetensors.DType]tensor.DType{
	safetensors.F32: tensor.Float32, safetensors.BF16: tensor.BFloat16,
	safetensors.F16: tensor.Float16, safetensors.F64: tensor.Float64,
	safetensors.I64: tensor.Int64, // the step count of an optimizer
}

// Fits tells whether src holds exactly the weights of the configuration. The error wraps ErrWeights and names what is
// missing, unknown or of another shape.
func (c Config) Fits(src Source) error {
	_, err := match(c, src)
	return err
}

// Weights declares the weights of the configuration, which Fits finds in a file, in the order of the architecture.
func (c Config) Weights(dtype safetensors.DType) []safetensors.Info {
	var infos []safetensors.Info
	for _, w := range weights(c.WithDefaults()) {
		infos = append(infos, safetensors.Info{Name: w.name, DType: dtype, Shape: w.shape})
	}
	return infos
}

// match finds the name in src of every weight of the configuration and tells all that does not fit.
func match(cfg Config, src Source) (map[string]string, error) {
	found := make(map[string]safetensors.Info)
	want := weights(cfg)
	var extra []string
	known := make(map[string]bool)
	for _, w := range want {
		known[w.name] = true
	}
	for _, info := range src.Tensors() {
		switch name := canonical(cfg, info.Name); {
		case name == "":
		case known[name]:
			found[name] = info
		default:
			extra = append(extra, info.Name)
		}
	}
	if text := misfits(want, found, extra); text != "" {
		return nil, fmt.Errorf("%w (%s): %s", ErrWeights, cfg.Family, text)
	}
	names := make(map[string]string)
	for _, w := range want {
		names[w.name] = found[w.name].Name
	}
	return names, nil
}

// misfits tells what of the wanted weights is missing or of another shape or type in what was found by name, and what is
// there besides; "" when all fits.
func misfits(want []weight, found map[string]safetensors.Info, extra []string) string {
	var missing, wrong []string
	for _, w := range want {
		info, ok := found[w.name]
		_, supported := fileDTypes[info.DType]
		switch {
		case !ok:
			missing = append(missing, w.name)
		case !slices.Equal(info.Shape, w.shape):
			wrong = append(wrong, fmt.Sprintf("%s is %v, want %v", info.Name, info.Shape, w.shape))
		case !supported:
			wrong = append(wrong, fmt.Sprintf("%s is of type %s", info.Name, info.DType))
		}
	}
	var problems []string
	for _, p := range []struct {
		what string
		list []string
	}{{"missing: ", missing}, {"unknown: ", extra}, {"", wrong}} {
		if len(p.list) > 0 {
			problems = append(problems, p.what+few(p.list))
		}
	}
	return strings.Join(problems, "; ")
}

// canonical is a tensor's name as transformers writes it today, or "" for one that is no weight: buffers of old files,
// the copy of a tied head, and the part for images of a Gemma 3 model.
func canonical(cfg Config, name string) string {
	if cfg.Family == Gemma3 {
		for _, prefix := range []string{"language_model.model.", "model.language_model."} {
			if rest, ok := strings.CutPrefix(name, prefix); ok {
				return "model." + rest
			}
		}
		name = strings.TrimPrefix(name, "language_model.")
		for _, images := range []string{"vision_tower.", "multi_modal_projector."} {
			if strings.HasPrefix(strings.TrimPrefix(name, "model."), images) {
				return ""
			}
		}
	}
	switch {
	case name == "lm_head.weight":
		if cfg.TieEmbeddings {
			return ""
		}
	case strings.HasSuffix(name, ".rotary_emb.inv_freq"),
		cfg.Family == GPT2 && (strings.HasSuffix(name, ".attn.bias") || strings.HasSuffix(name, ".attn.masked_bias")):
		return ""
	case cfg.Family == GPT2 && !strings.HasPrefix(name, "transformer."):
		return "transformer." + name
	}
	return name
}

func few(list []string) string {
	const most = 5
	if len(list) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(list[:most], ", "), len(list)-most)
	}
	return strings.Join(list, ", ")
}

// ReadTensor copies a tensor of src to the engine, converted to dtype. The error wraps ErrWeights when its shape is
// another one, and ErrNotFinite for numbers that are NaN or infinite.
func ReadTensor(
	s *tensor.Scope, src Source, name string, dtype tensor.DType, shape ...int64,
) (*tensor.Tensor, error) {
	var out *tensor.Tensor
	err := withData(s, src, name, shape, func(from tensor.DType, data []byte) {
		out = s.FromBytes(from, data, shape...).To(dtype)
	})
	return out, err
}

// withData gives f the bytes of a tensor, which must be of the given shape, and gives their memory back behind it.
func withData(
	s *tensor.Scope, src Source, name string, shape []int64, f func(dtype tensor.DType, data []byte),
) error {
	t, err := src.Tensor(name)
	if err != nil {
		return err
	}
	if !slices.Equal(t.Shape, shape) {
		return fmt.Errorf("%w: %s is %v, want %v", ErrWeights, name, t.Shape, shape)
	}
	dtype, ok := fileDTypes[t.DType]
	if !ok {
		return fmt.Errorf("%w: %s is of type %s", ErrWeights, name, t.DType)
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
		dtype, err := fileDType(p.Tensor.DType())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.Name, err)
		}
		infos[i] = safetensors.Info{Name: p.Name, DType: dtype, Shape: p.Tensor.Shape()}
	}
	return infos, nil
}

// fileMetadata is what transformers wants to see in a file of weights.
func fileMetadata() map[string]string { return map[string]string{"format": "pt"} }

func fileDType(d tensor.DType) (safetensors.DType, error) {
	for file, dtype := range fileDTypes {
		if dtype == d {
			return file, nil
		}
	}
	return "", fmt.Errorf("%w: %v cannot be written", ErrWeights, d)
}

// LoadWeights replaces the weights in place by those of a safetensors file with the same names and shapes. When the
// file does not fit, the error wraps ErrWeights and the model is unchanged. Its numbers are read one tensor after the other:
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
func (m *Model) Replace(ctx context.Context, src Source) error {
	names, err := match(m.cfg, src)
	if err != nil {
		return err
	}
	// One call of Do: nobody computes with a model that is half the old one meanwhile, and ctx cannot end in the middle.
	return m.eng.Do(ctx, func(s *tensor.Scope) error {
		return s.NoGrad(func(s *tensor.Scope) error {
			for i, w := range weights(m.cfg) {
				err := s.Scope(func(s *tensor.Scope) error { return m.replace(s, src, names[w.name], w, m.params[i].Tensor) })
				if err != nil {
					return fmt.Errorf("%s: %w", w.name, err)
				}
			}
			return nil
		})
	})
}

// replace reads one weight into its tensor t, or packs it anew.
func (m *Model) replace(s *tensor.Scope, src Source, name string, w weight, t *tensor.Tensor) error {
	old := m.packed[t]
	if old == nil {
		fresh, err := ReadTensor(s, src, name, m.dtype, w.shape...)
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
