package models

import (
	"encoding/json"
	"fmt"
)

// llamaFile is config.json of the Llama and Mistral families.
type llamaFile struct {
	common
	Hidden           int             `json:"hidden_size"`
	Layers           int             `json:"num_hidden_layers"`
	Heads            int             `json:"num_attention_heads"`
	KVHeads          *int            `json:"num_key_value_heads"`
	HeadDim          *int            `json:"head_dim"`
	Intermediate     int             `json:"intermediate_size"`
	MaxPositions     *int            `json:"max_position_embeddings"`
	SlidingWindow    json.RawMessage `json:"sliding_window,omitempty"`
	Activation       *string         `json:"hidden_act"`
	NormEps          *float64        `json:"rms_norm_eps"`
	RopeTheta        *float64        `json:"rope_theta"`
	RopeParameters   *ropeParameters `json:"rope_parameters"`
	RopeScaling      *ropeParameters `json:"rope_scaling"`
	PartialRotary    *float64        `json:"partial_rotary_factor,omitempty"`
	AttentionBias    bool            `json:"attention_bias"`
	FeedForwardBias  bool            `json:"mlp_bias"`
	AttentionDropout float64         `json:"attention_dropout"`
}

// ropeParameters describe the rotary embedding; older files name the type "type" and call the whole rope_scaling.
type ropeParameters struct {
	Type          *string  `json:"rope_type,omitempty"`
	OldType       *string  `json:"type,omitempty"`
	Theta         *float64 `json:"rope_theta,omitempty"`
	PartialRotary *float64 `json:"partial_rotary_factor,omitempty"`
}

// theta is the base that the rope parameters name, if any. Only the plain embedding is supported.
func (p *ropeParameters) theta(key string) (*float64, error) {
	if p == nil {
		return nil, nil
	}
	for _, kind := range []*string{p.Type, p.OldType} {
		if kind != nil && *kind != "default" {
			return nil, fmt.Errorf("%w: %s is %q, only the default rotary embedding is supported", ErrConfig, key, *kind)
		}
	}
	if f := or(p.PartialRotary, 1); f != 1 {
		return nil, fmt.Errorf("%w: partial_rotary_factor %g is not supported", ErrConfig, f)
	}
	return p.Theta, nil
}

func parseLlama(family string, data []byte) (Config, error) {
	var f llamaFile
	if err := json.Unmarshal(data, &f); err != nil {
		return Config{}, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if act := or(f.Activation, "silu"); act != "silu" && act != "swish" {
		return Config{}, fmt.Errorf("%w: hidden_act %q is not supported, only silu", ErrConfig, act)
	}
	if f.AttentionBias || f.FeedForwardBias {
		return Config{}, fmt.Errorf("%w: attention_bias and mlp_bias are not supported", ErrConfig)
	}
	if p := or(f.PartialRotary, 1); p != 1 {
		return Config{}, fmt.Errorf("%w: partial_rotary_factor %g is not supported", ErrConfig, p)
	}
	theta := f.RopeTheta
	for _, named := range []struct {
		key        string
		parameters *ropeParameters
	}{{"rope_parameters", f.RopeParameters}, {"rope_scaling", f.RopeScaling}} {
		t, err := named.parameters.theta(named.key)
		if err != nil {
			return Config{}, err
		}
		if t != nil && theta != nil && *t != *theta {
			return Config{}, fmt.Errorf("%w: rope_theta is %g, but %g in %s: keep the right one",
				ErrConfig, *theta, *t, named.key)
		}
		if t != nil {
			theta = t
		}
	}
	// Absent keys mean what they mean to transformers.
	c := Config{
		Family: family, Vocab: f.Vocab, Hidden: f.Hidden, Layers: f.Layers, Heads: f.Heads,
		KVHeads: or(f.KVHeads, f.Heads), HeadDim: or(f.HeadDim, 0), Intermediate: f.Intermediate,
		MaxPositions: or(f.MaxPositions, 2048), NormEps: or(f.NormEps, 1e-6), RopeTheta: or(theta, 10000),
		TieEmbeddings: or(f.TieEmbeddings, false), InitializerRange: or(f.InitializerRange, 0.02),
		BOS: f.BOS, EOS: f.EOS, Pad: f.Pad,
	}
	if family == Mistral {
		if f.KVHeads == nil {
			return Config{}, fmt.Errorf("%w: num_key_value_heads is missing", ErrConfig)
		}
		c.MaxPositions = or(f.MaxPositions, 4096*32)
		c.SlidingWindow = 4096
		if f.SlidingWindow != nil { // null is no window
			c.SlidingWindow = 0
			if err := json.Unmarshal(f.SlidingWindow, &c.SlidingWindow); err != nil {
				return Config{}, fmt.Errorf("%w: sliding_window: %w", ErrConfig, err)
			}
		}
	}
	return c, nil
}

func (c Config) llamaFile() llamaFile {
	silu, plain := "silu", "default"
	f := llamaFile{
		common: c.common(), Hidden: c.Hidden, Layers: c.Layers, Heads: c.Heads, KVHeads: &c.KVHeads, HeadDim: &c.HeadDim,
		Intermediate: c.Intermediate, MaxPositions: &c.MaxPositions, Activation: &silu, NormEps: &c.NormEps,
		RopeTheta: &c.RopeTheta, RopeParameters: &ropeParameters{Type: &plain, Theta: &c.RopeTheta},
	}
	if c.Family == Mistral {
		f.SlidingWindow = json.RawMessage("null")
		if c.SlidingWindow > 0 {
			f.SlidingWindow = fmt.Appendf(nil, "%d", c.SlidingWindow)
		}
	}
	return f
}
