package architecture

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/ldalign/ldalign/models/safetensors"
)

// ErrWeights means weights that are not those of the configuration: a tensor is missing, unknown, of another shape or of a
// type that is not supported.
var ErrWeights = errors.New("models: weights do not fit the configuration")

// Weight describes one parameter of a model.
type Weight struct {
	Name  string
	Shape []int64
	// Std is the standard deviation of a fresh weight around 0. A weight without one starts at Fill.
	Std, Fill float64
	// Linear says that this is the matrix of a linear layer, the output head's among them.
	Linear bool
	// Head says that this is the output head's matrix. A tied head's is the matrix of the token embeddings, which is not Linear.
	Head bool
	// InFirst says that a matrix is [In, Out], as GPT-2 stores it.
	InFirst bool
}

// Multiplied tells whether hidden states are multiplied by the weight: a packed model packs these. Other embeddings are looked up.
func (w Weight) Multiplied() bool { return w.Linear || w.Head }

// Weights are the parameters of the configuration under Hugging Face's names, in their fixed order. A tied head is not among them.
func (c Config) Weights() []Weight { return c.WithDefaults().weights() }

// weights are the Weights of a configuration whose defaults are filled in.
func (c Config) weights() []Weight {
	if c.Family == GPT2 {
		return gpt2Weights(c)
	}
	return llamaWeights(c)
}

// Tensors declares the weights of the configuration for a file whose elements are of one type.
func (c Config) Tensors(dtype safetensors.DType) []safetensors.Info {
	var infos []safetensors.Info
	for _, w := range c.Weights() {
		infos = append(infos, safetensors.Info{Name: w.Name, DType: dtype, Shape: w.Shape})
	}
	return infos
}

// Readable tells whether weights may have an element type in a file.
func Readable(dtype safetensors.DType) bool {
	switch dtype {
	case safetensors.F32, safetensors.BF16, safetensors.F16, safetensors.F64, safetensors.I64:
		return true
	}
	return false
}

// Fits tells whether the tensors of a file are exactly the weights of the configuration. The error wraps ErrWeights and names
// what is missing, unknown or of another shape.
func (c Config) Fits(tensors []safetensors.Info) error {
	_, err := c.Match(tensors)
	return err
}

// Match finds the name in a file of every weight of the configuration, by the weight's Name: older files have other names. The
// error is that of Fits.
func (c Config) Match(tensors []safetensors.Info) (map[string]string, error) {
	found, known := make(map[string]safetensors.Info), make(map[string]bool)
	want := c.Weights()
	for _, w := range want {
		known[w.Name] = true
	}
	var extra []string
	for _, info := range tensors {
		switch name := c.canonical(info.Name); {
		case name == "":
		case known[name]:
			found[name] = info
		default:
			extra = append(extra, info.Name)
		}
	}
	if text := misfits(want, found, extra); text != "" {
		return nil, fmt.Errorf("%w (%s): %s", ErrWeights, c.Family, text)
	}
	names := make(map[string]string)
	for _, w := range want {
		names[w.Name] = found[w.Name].Name
	}
	return names, nil
}

// misfits tells which of the wanted weights are missing, or of another shape or type, in what was found by name, and what else is
// there; "" when all fits.
func misfits(want []Weight, found map[string]safetensors.Info, extra []string) string {
	var missing, wrong []string
	for _, w := range want {
		info, ok := found[w.Name]
		switch {
		case !ok:
			missing = append(missing, w.Name)
		case !slices.Equal(info.Shape, w.Shape):
			wrong = append(wrong, fmt.Sprintf("%s is %v, want %v", info.Name, info.Shape, w.Shape))
		case !Readable(info.DType):
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
func (c Config) canonical(name string) string {
	if c.Family == Gemma3 {
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
		if c.TieEmbeddings {
			return ""
		}
	case strings.HasSuffix(name, ".rotary_emb.inv_freq"),
		c.Family == GPT2 && (strings.HasSuffix(name, ".attn.bias") || strings.HasSuffix(name, ".attn.masked_bias")):
		return ""
	case c.Family == GPT2 && !strings.HasPrefix(name, "transformer."):
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

// withHead adds the output head, unless it is tied.
func (c Config) withHead(list []Weight) []Weight {
	if c.TieEmbeddings {
		return list
	}
	return append(list, Weight{
		Name: "lm_head.weight", Shape: []int64{int64(c.Vocab), int64(c.Hidden)}, Std: c.InitializerRange, Linear: true, Head: true,
	})
}

func llamaWeights(c Config) []Weight {
	h, std := int64(c.Hidden), c.InitializerRange
	q, kv, inner := int64(c.Heads*c.HeadDim), int64(c.KVHeads*c.HeadDim), int64(c.Intermediate)
	list := []Weight{{Name: "model.embed_tokens.weight", Shape: []int64{int64(c.Vocab), h}, Std: std, Head: c.TieEmbeddings}}
	linear := func(name string, out, in int64, bias bool) {
		list = append(list, Weight{Name: name + ".weight", Shape: []int64{out, in}, Std: std, Linear: true})
		if bias {
			list = append(list, Weight{Name: name + ".bias", Shape: []int64{out}})
		}
	}
	norm := func(name string, size int64) {
		list = append(list, Weight{Name: name + ".weight", Shape: []int64{size}, Fill: 1 - c.NormOffset()})
	}
	for i := range c.Layers {
		at := fmt.Sprintf("model.layers.%d.", i)
		norm(at+"input_layernorm", h)
		linear(at+"self_attn.q_proj", q, h, c.AttentionBias || c.Family == Qwen2)
		linear(at+"self_attn.k_proj", kv, h, c.AttentionBias || c.Family == Qwen2)
		linear(at+"self_attn.v_proj", kv, h, c.AttentionBias || c.Family == Qwen2)
		linear(at+"self_attn.o_proj", h, q, c.AttentionBias)
		if c.Family == Qwen3 || c.Family == Gemma3 {
			norm(at+"self_attn.q_norm", int64(c.HeadDim))
			norm(at+"self_attn.k_norm", int64(c.HeadDim))
		}
		norm(at+"post_attention_layernorm", h)
		if c.Family == Gemma3 {
			norm(at+"pre_feedforward_layernorm", h)
		}
		linear(at+"mlp.gate_proj", inner, h, c.ForwardBias)
		linear(at+"mlp.up_proj", inner, h, c.ForwardBias)
		linear(at+"mlp.down_proj", h, inner, c.ForwardBias)
		if c.Family == Gemma3 {
			norm(at+"post_feedforward_layernorm", h)
		}
	}
	norm("model.norm", h)
	return c.withHead(list)
}

// NormOffset is what is added to the weights of norms: Gemma stores them around 0.
func (c Config) NormOffset() float64 {
	if c.Family == Gemma3 {
		return 1
	}
	return 0
}

func gpt2Weights(c Config) []Weight {
	h, inner, std := int64(c.Hidden), int64(c.Intermediate), c.InitializerRange
	residual := std / math.Sqrt(float64(2*c.Layers))
	list := []Weight{
		{Name: "transformer.wte.weight", Shape: []int64{int64(c.Vocab), h}, Std: std, Head: c.TieEmbeddings},
		{Name: "transformer.wpe.weight", Shape: []int64{int64(c.MaxPositions), h}, Std: std},
	}
	norm := func(name string) {
		list = append(list, Weight{Name: name + ".weight", Shape: []int64{h}, Fill: 1},
			Weight{Name: name + ".bias", Shape: []int64{h}})
	}
	linear := func(name string, in, out int64, std float64) {
		list = append(list, Weight{Name: name + ".weight", Shape: []int64{in, out}, Std: std, Linear: true, InFirst: true},
			Weight{Name: name + ".bias", Shape: []int64{out}})
	}
	for i := range c.Layers {
		at := fmt.Sprintf("transformer.h.%d.", i)
		norm(at + "ln_1")
		linear(at+"attn.c_attn", h, 3*h, std)
		linear(at+"attn.c_proj", h, h, residual)
		norm(at + "ln_2")
		linear(at+"mlp.c_fc", h, inner, std)
		linear(at+"mlp.c_proj", inner, h, residual)
	}
	norm("transformer.ln_f")
	return c.withHead(list)
}
