package architecture

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
)

// GPT2 is the family of GPT-2: LayerNorm, learned positions, biases everywhere.
const GPT2 = "gpt2"

func gpt2() family {
	return family{
		name: GPT2, class: "GPT2LMHeadModel",
		Traits:  Traits{Network: GPT2Network},
		weights: gpt2Weights, format: gpt2Format{}, rename: gpt2Rename,
	}
}

// gpt2Rename drops the attention masks of older files, and adds the "transformer." that their names lack.
func gpt2Rename(name string) string {
	switch {
	case strings.HasSuffix(name, ".attn.bias"), strings.HasSuffix(name, ".attn.masked_bias"):
		return ""
	case name != headName && !strings.HasPrefix(name, "transformer."):
		return "transformer." + name
	}
	return name
}

// gpt2Format is config.json of the family.
type gpt2Format struct{}

// gpt2File is the content of config.json.
type gpt2File struct {
	common
	Hidden         int      `json:"n_embd"`
	Layers         int      `json:"n_layer"`
	Heads          int      `json:"n_head"`
	Inner          *int     `json:"n_inner"`
	Positions      *int     `json:"n_positions"`
	Activation     *string  `json:"activation_function"`
	NormEps        *float64 `json:"layer_norm_epsilon"`
	Scale          *bool    `json:"scale_attn_weights"`
	ScaleByLayer   bool     `json:"scale_attn_by_inverse_layer_idx"`
	CrossAttention bool     `json:"add_cross_attention"`
}

func (gpt2Format) parse(family family, data []byte) (Config, error) {
	var f gpt2File
	if err := json.Unmarshal(data, &f); err != nil {
		return Config{}, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if act := or(f.Activation, "gelu_new"); act != "gelu_new" && act != "gelu_pytorch_tanh" {
		return Config{}, fmt.Errorf("%w: activation_function %q is not supported, only gelu_new", ErrConfig, act)
	}
	if !or(f.Scale, true) || f.ScaleByLayer || f.CrossAttention {
		return Config{}, fmt.Errorf("%w: gpt2 is supported with scale_attn_weights, without "+
			"scale_attn_by_inverse_layer_idx and without add_cross_attention", ErrConfig)
	}
	return Config{
		Family: family.name, Vocab: f.Vocab, Hidden: f.Hidden, Layers: f.Layers, Heads: f.Heads,
		Intermediate: or(f.Inner, 4*f.Hidden), MaxPositions: or(f.Positions, 1024), NormEps: or(f.NormEps, 1e-5),
		TieEmbeddings: or(f.TieEmbeddings, true), InitializerRange: or(f.InitializerRange, 0.02),
		BOS: f.BOS, EOS: f.EOS, Pad: f.Pad,
	}, nil
}

func (gpt2Format) file(family family, c Config) (any, error) {
	gelu, yes := "gelu_new", true
	return gpt2File{
		common: c.common(family.class), Hidden: c.Hidden, Layers: c.Layers, Heads: c.Heads, Inner: &c.Intermediate,
		Positions: &c.MaxPositions, Activation: &gelu, NormEps: &c.NormEps, Scale: &yes,
	}, nil
}

// gpt2Weights are the weights of GPT-2's network.
func gpt2Weights(c Config, _ Traits) []Weight {
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
