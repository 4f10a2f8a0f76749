package architecture

import (
	"encoding/json"
	"fmt"
)

// gpt2File is config.json of the GPT-2 family.
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

func parseGPT2(family string, data []byte) (Config, error) {
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
		Family: family, Vocab: f.Vocab, Hidden: f.Hidden, Layers: f.Layers, Heads: f.Heads,
		Intermediate: or(f.Inner, 4*f.Hidden), MaxPositions: or(f.Positions, 1024), NormEps: or(f.NormEps, 1e-5),
		TieEmbeddings: or(f.TieEmbeddings, true), InitializerRange: or(f.InitializerRange, 0.02),
		BOS: f.BOS, EOS: f.EOS, Pad: f.Pad,
	}, nil
}

func (c Config) gpt2File() gpt2File {
	gelu, yes := "gelu_new", true
	return gpt2File{
		common: c.common(), Hidden: c.Hidden, Layers: c.Layers, Heads: c.Heads, Inner: &c.Intermediate,
		Positions: &c.MaxPositions, Activation: &gelu, NormEps: &c.NormEps, Scale: &yes,
	}
}
