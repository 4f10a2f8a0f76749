package architecture

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
)

// rotaryFormat is the config.json of the families with Llama's network. Its fields say how a family's differs.
type rotaryFormat struct {
	// defaults sets the values that transformers has for absent keys and that differ from those in parse; nil if none do.
	defaults func(f *rotaryFile)
	// optionalKVHeads says that num_key_value_heads may be absent.
	optionalKVHeads bool
	// noBiasKey says that attention_bias is refused. Other families without that option ignore it.
	noBiasKey bool
	// windowed tells whether the keys turn on sliding_window; nil means never.
	windowed func(f windowKeys) bool
	// local tells whether a layer is local if there are no layer_types.
	local func(f windowKeys, window, layer int) (bool, error)
	// windowKeys writes what windowed and local read; nil writes nothing.
	windowKeys func(c Config) windowKeys
}

// rotaryFile is the content of config.json. An absent key means what it means to transformers, see rotaryFormat.defaults.
type rotaryFile struct {
	common
	Hidden           int      `json:"hidden_size"`
	Layers           int      `json:"num_hidden_layers"`
	Heads            int      `json:"num_attention_heads"`
	KVHeads          int      `json:"num_key_value_heads"`
	HeadDim          int      `json:"head_dim"`
	Intermediate     int      `json:"intermediate_size"`
	MaxPositions     int      `json:"max_position_embeddings"`
	NormEps          float64  `json:"rms_norm_eps"`
	Activation       string   `json:"hidden_act,omitempty"`
	GELUActivation   string   `json:"hidden_activation,omitempty"`
	AttentionBias    bool     `json:"attention_bias"`
	ForwardBias      bool     `json:"mlp_bias"`
	AttentionDropout float64  `json:"attention_dropout"`
	QueryScalar      float64  `json:"query_pre_attn_scalar,omitempty"`
	AttentionSoftcap *float64 `json:"attn_logit_softcapping,omitempty"`
	FinalSoftcap     *float64 `json:"final_logit_softcapping,omitempty"`
	Bidirectional    bool     `json:"use_bidirectional_attention,omitempty"`
	PartialRotary    *float64 `json:"partial_rotary_factor,omitempty"`
	windowKeys
	ropeKeys
}

// windowKeys say which layers are local.
type windowKeys struct {
	Window json.RawMessage `json:"sliding_window,omitempty"` // null for no window
	// Of Qwen: the layers from MaxWindowLayers on are local.
	UseWindow       *bool `json:"use_sliding_window,omitempty"`
	MaxWindowLayers *int  `json:"max_window_layers,omitempty"`
	// Of Gemma: a layer is local unless its number, from 1, is a multiple of this.
	Pattern *int `json:"sliding_window_pattern,omitempty"`
	// Types, if present, give the kind of each layer instead.
	Types []string `json:"layer_types,omitempty"`
}

func (r rotaryFormat) parse(family family, data []byte) (Config, error) {
	// transformers takes some sizes from one particular model by default. They stay 0 here, so Validate refuses them.
	f := rotaryFile{NormEps: 1e-6, Activation: "silu", MaxPositions: 32768}
	if r.defaults != nil {
		r.defaults(&f)
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return Config{}, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if err := r.supported(family, f); err != nil {
		return Config{}, err
	}
	c := Config{
		Family: family.name, Vocab: f.Vocab, Hidden: f.Hidden, Layers: f.Layers, Heads: f.Heads, KVHeads: f.KVHeads,
		HeadDim: f.HeadDim, Intermediate: f.Intermediate, MaxPositions: f.MaxPositions, NormEps: f.NormEps,
		AttentionBias: f.AttentionBias && family.options.attentionBias, ForwardBias: f.ForwardBias,
		TieEmbeddings: or(f.TieEmbeddings, false), InitializerRange: or(f.InitializerRange, 0.02),
		BOS: f.BOS, EOS: f.EOS, Pad: f.Pad,
	}
	if family.options.queryScalar {
		c.QueryScalar = f.QueryScalar
	}
	var err error
	if c.SlidingWindow, c.LocalLayers, err = r.windows(family, f.windowKeys, f.Layers); err != nil {
		return Config{}, err
	}
	return c, f.ropes(&c, family.LocalRope)
}

// supported refuses what the networks do not compute.
func (r rotaryFormat) supported(family family, f rotaryFile) error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrConfig, fmt.Sprintf(format, args...))
	}
	switch {
	case !family.GELU && f.Activation != "silu" && f.Activation != "swish":
		return refuse("hidden_act %q is not supported, only silu", f.Activation)
	case family.GELU && f.GELUActivation != "gelu_pytorch_tanh" && f.GELUActivation != "gelu_new":
		return refuse("hidden_activation %q is not supported, only gelu_pytorch_tanh", f.GELUActivation)
	case f.AttentionBias && r.noBiasKey, f.ForwardBias && !family.options.forwardBias:
		return refuse("attention_bias and mlp_bias are not supported in a %s model", family.name)
	case or(f.PartialRotary, 1) != 1:
		return refuse("partial_rotary_factor %g is not supported", *f.PartialRotary)
	case f.AttentionSoftcap != nil:
		return refuse("attn_logit_softcapping %g is not supported", *f.AttentionSoftcap)
	case f.FinalSoftcap != nil:
		return refuse("final_logit_softcapping %g is not supported", *f.FinalSoftcap)
	case f.Bidirectional:
		return refuse("use_bidirectional_attention is not supported: this is no language model")
	case f.KVHeads == 0 && !r.optionalKVHeads:
		return refuse("num_key_value_heads is missing")
	}
	return nil
}

// windows is the sliding window, and the layers that it bounds.
func (r rotaryFormat) windows(family family, f windowKeys, layers int) (window int, local []bool, err error) {
	if layers < 1 || layers > maxLayers { // Validate says so
		return 0, nil, nil
	}
	if f.Types != nil && len(f.Types) != layers {
		return 0, nil, fmt.Errorf("%w: layer_types has %d entries for %d layers", ErrConfig, len(f.Types), layers)
	}
	for _, kind := range f.Types {
		if kind != localLayer && kind != globalLayer {
			return 0, nil, fmt.Errorf("%w: layer_types: %q is not supported, only %s and %s",
				ErrConfig, kind, globalLayer, localLayer)
		}
	}
	if r.windowed != nil && r.windowed(f) {
		if window, err = f.window(); err != nil {
			return 0, nil, err
		}
	}
	local = make([]bool, layers)
	for i := range local {
		switch {
		case f.Types != nil:
			local[i] = f.Types[i] == localLayer
		case r.local != nil:
			if local[i], err = r.local(f, window, i); err != nil {
				return 0, nil, err
			}
		}
	}
	some, all := slices.Contains(local, true), !slices.Contains(local, false)
	switch {
	case some && window == 0:
		return 0, nil, fmt.Errorf("%w: there are local layers, but no sliding_window in this %s model", ErrConfig, family.name)
	case window > 0 && !all && !family.options.localLayers:
		return 0, nil, fmt.Errorf("%w: layer_types: all layers of a %s model are alike", ErrConfig, family.name)
	case !some:
		return 0, nil, nil
	case all:
		return window, nil, nil
	}
	return window, local, nil
}

// window is the sliding window, 0 for none.
func (f windowKeys) window() (int, error) {
	window := 4096
	switch {
	case bytes.Equal(f.Window, null):
		return 0, nil
	case f.Window != nil:
		if err := json.Unmarshal(f.Window, &window); err != nil {
			return 0, fmt.Errorf("%w: sliding_window: %w", ErrConfig, err)
		}
		if window < 1 {
			return 0, fmt.Errorf("%w: sliding_window is %d", ErrConfig, window)
		}
	}
	return window, nil
}

func (r rotaryFormat) file(family family, c Config) (any, error) {
	rope, err := c.ropeKeys(family.LocalRope)
	f := rotaryFile{
		common: c.common(family.class), Hidden: c.Hidden, Layers: c.Layers, Heads: c.Heads, KVHeads: c.KVHeads, HeadDim: c.HeadDim,
		Intermediate: c.Intermediate, MaxPositions: c.MaxPositions, NormEps: c.NormEps, Activation: "silu",
		AttentionBias: c.AttentionBias, ForwardBias: c.ForwardBias, ropeKeys: rope,
	}
	if r.windowKeys != nil {
		f.windowKeys = r.windowKeys(c)
	}
	if family.GELU {
		f.Activation, f.GELUActivation = "", "gelu_pytorch_tanh"
	}
	if family.options.queryScalar {
		f.QueryScalar = c.QueryScalar
	}
	return f, err
}

// slidingWindow are the keys of a family whose layers all have the same window.
func (c Config) slidingWindow() windowKeys {
	if c.SlidingWindow == 0 {
		return windowKeys{Window: null}
	}
	return windowKeys{Window: fmt.Appendf(nil, "%d", c.SlidingWindow)}
}

// layerTypes are the layer_types of a configuration.
func (c Config) layerTypes() []string {
	types := make([]string, c.Layers)
	for i := range types {
		if types[i] = globalLayer; c.Local(i) {
			types[i] = localLayer
		}
	}
	return types
}

// rotaryWeights are the weights of Llama's network.
func rotaryWeights(c Config, traits Traits) []Weight {
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
		list = append(list, Weight{Name: name + ".weight", Shape: []int64{size}, Fill: 1 - traits.NormOffset})
	}
	for i := range c.Layers {
		at := fmt.Sprintf("model.layers.%d.", i)
		norm(at+"input_layernorm", h)
		linear(at+"self_attn.q_proj", q, h, c.AttentionBias || traits.QueryKeyValueBias)
		linear(at+"self_attn.k_proj", kv, h, c.AttentionBias || traits.QueryKeyValueBias)
		linear(at+"self_attn.v_proj", kv, h, c.AttentionBias || traits.QueryKeyValueBias)
		linear(at+"self_attn.o_proj", h, q, c.AttentionBias)
		if traits.HeadNorms {
			norm(at+"self_attn.q_norm", int64(c.HeadDim))
			norm(at+"self_attn.k_norm", int64(c.HeadDim))
		}
		norm(at+"post_attention_layernorm", h)
		if traits.OutputNorms {
			norm(at+"pre_feedforward_layernorm", h)
		}
		linear(at+"mlp.gate_proj", inner, h, c.ForwardBias)
		linear(at+"mlp.up_proj", inner, h, c.ForwardBias)
		linear(at+"mlp.down_proj", h, inner, c.ForwardBias)
		if traits.OutputNorms {
			norm(at+"post_feedforward_layernorm", h)
		}
	}
	norm("model.norm", h)
	return c.withHead(list)
}
