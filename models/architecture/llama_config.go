package architecture

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
)

// llamaFile is config.json of Llama and the families that descend from it. A key that is absent means what it means to
// transformers, see llamaDefaults.
type llamaFile struct {
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
	GemmaActivation  string   `json:"hidden_activation,omitempty"`
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
	Window json.RawMessage `json:"sliding_window,omitempty"` // null is no window
	// Qwen: the layers from MaxWindowLayers on are local.
	UseWindow       *bool `json:"use_sliding_window,omitempty"`
	MaxWindowLayers *int  `json:"max_window_layers,omitempty"`
	// Gemma: each layer is local whose number, from 1, is no multiple of this.
	Pattern *int `json:"sliding_window_pattern,omitempty"`
	// Types, if there are any, say it for each layer instead.
	Types []string `json:"layer_types,omitempty"`
}

// The values of layer_types.
const (
	localLayer  = "sliding_attention"
	globalLayer = "full_attention"
)

// llamaDefaults are the values that transformers has for absent keys. A size that it takes from one certain model for
// all is left 0, and so refused; but Gemma 3 writes only what differs from them.
func llamaDefaults(family string) llamaFile {
	f := llamaFile{NormEps: 1e-6, Activation: "silu", MaxPositions: 32768}
	switch family {
	case Llama:
		f.MaxPositions = 2048
	case Mistral:
		f.MaxPositions = 131072
	case Qwen3:
		f.HeadDim = 128
	case Gemma3:
		yes := true
		f.Vocab, f.Hidden, f.Layers, f.Heads, f.KVHeads, f.HeadDim = 262208, 2304, 26, 8, 4, 256
		f.Intermediate, f.MaxPositions, f.QueryScalar = 9216, 131072, 256
		f.GemmaActivation, f.TieEmbeddings = "gelu_pytorch_tanh", &yes
	}
	return f
}

func parseLlama(family string, data []byte) (Config, error) {
	f := llamaDefaults(family)
	if err := json.Unmarshal(data, &f); err != nil {
		return Config{}, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if err := f.supported(family); err != nil {
		return Config{}, err
	}
	c := Config{
		Family: family, Vocab: f.Vocab, Hidden: f.Hidden, Layers: f.Layers, Heads: f.Heads, KVHeads: f.KVHeads,
		HeadDim: f.HeadDim, Intermediate: f.Intermediate, MaxPositions: f.MaxPositions, NormEps: f.NormEps,
		AttentionBias: f.AttentionBias, TieEmbeddings: or(f.TieEmbeddings, false),
		InitializerRange: or(f.InitializerRange, 0.02), BOS: f.BOS, EOS: f.EOS, Pad: f.Pad,
	}
	switch family {
	case Llama:
		c.ForwardBias = f.ForwardBias
	case Mistral, Qwen2: // their attention has the biases that the family has
		c.AttentionBias = false
	case Gemma3:
		c.QueryScalar = f.QueryScalar
	}
	if family != Llama && f.KVHeads == 0 {
		return Config{}, fmt.Errorf("%w: num_key_value_heads is missing", ErrConfig)
	}
	var err error
	if c.SlidingWindow, c.LocalLayers, err = f.windows(family, f.Layers); err != nil {
		return Config{}, err
	}
	if err = f.ropes(&c); err != nil {
		return Config{}, err
	}
	return c, nil
}

// parseGemmaText reads the text model out of a configuration that has a part for images too: text is its text_config. The
// special tokens may stand beside it.
func parseGemmaText(data, text json.RawMessage) (Config, error) {
	if !isSet(text) {
		return Config{}, fmt.Errorf("%w: text_config is missing", ErrConfig)
	}
	var head configHead
	var outer common
	if err := json.Unmarshal(text, &head); err != nil {
		return Config{}, fmt.Errorf("%w: text_config: %w", ErrConfig, err)
	}
	if head.ModelType != "" && head.ModelType != Gemma3 {
		return Config{}, fmt.Errorf("%w: text_config: model_type is %q, want %s", ErrConfig, head.ModelType, Gemma3)
	}
	if isSet(head.Quantization) {
		return Config{}, fmt.Errorf("%w: text_config: quantised weights are not supported", ErrConfig)
	}
	if err := json.Unmarshal(data, &outer); err != nil {
		return Config{}, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	c, err := parseLlama(Gemma3, text)
	if err != nil {
		return Config{}, fmt.Errorf("text_config: %w", err)
	}
	c.TieEmbeddings = or(outer.TieEmbeddings, c.TieEmbeddings)
	if outer.EOS != nil {
		c.EOS = outer.EOS
	}
	if outer.BOS != nil {
		c.BOS = outer.BOS
	}
	if outer.Pad != nil {
		c.Pad = outer.Pad
	}
	return c, nil
}

// supported refuses what the networks here do not compute.
func (f llamaFile) supported(family string) error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrConfig, fmt.Sprintf(format, args...))
	}
	switch {
	case family != Gemma3 && f.Activation != "silu" && f.Activation != "swish":
		return refuse("hidden_act %q is not supported, only silu", f.Activation)
	case family == Gemma3 && f.GemmaActivation != "gelu_pytorch_tanh" && f.GemmaActivation != "gelu_new":
		return refuse("hidden_activation %q is not supported, only gelu_pytorch_tanh", f.GemmaActivation)
	case f.AttentionBias && family == Mistral, f.ForwardBias && family != Llama:
		return refuse("attention_bias and mlp_bias are not supported in a %s model", family)
	case or(f.PartialRotary, 1) != 1:
		return refuse("partial_rotary_factor %g is not supported", *f.PartialRotary)
	case f.AttentionSoftcap != nil:
		return refuse("attn_logit_softcapping %g is not supported", *f.AttentionSoftcap)
	case f.FinalSoftcap != nil:
		return refuse("final_logit_softcapping %g is not supported", *f.FinalSoftcap)
	case f.Bidirectional:
		return refuse("use_bidirectional_attention is not supported: this is no language model")
	}
	return nil
}

// windows is the sliding window, and the layers that it bounds.
func (f windowKeys) windows(family string, layers int) (window int, local []bool, err error) {
	if layers < 1 || layers > maxLayers { // for Validate to tell
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
	window = 4096
	switch {
	case family == Llama, (family == Qwen2 || family == Qwen3) && !or(f.UseWindow, false):
		window = 0
	case bytes.Equal(f.Window, []byte("null")):
		window = 0
	case f.Window != nil:
		if err := json.Unmarshal(f.Window, &window); err != nil {
			return 0, nil, fmt.Errorf("%w: sliding_window: %w", ErrConfig, err)
		}
		if window < 1 {
			return 0, nil, fmt.Errorf("%w: sliding_window is %d", ErrConfig, window)
		}
	}
	local = make([]bool, layers)
	for i := range local {
		switch {
		case f.Types != nil:
			local[i] = f.Types[i] == localLayer
		case family == Mistral:
			local[i] = window > 0
		case family == Gemma3:
			n := or(f.Pattern, 6)
			if n < 1 {
				return 0, nil, fmt.Errorf("%w: sliding_window_pattern is %d", ErrConfig, n)
			}
			local[i] = (i+1)%n != 0
		default:
			local[i] = window > 0 && i >= or(f.MaxWindowLayers, 28)
		}
	}
	some := slices.Contains(local, true)
	switch {
	case some && window == 0:
		return 0, nil, fmt.Errorf("%w: there are local layers, but no sliding_window in this %s model",
			ErrConfig, family)
	case family == Mistral && window > 0 && slices.Contains(local, false):
		return 0, nil, fmt.Errorf("%w: layer_types: all layers of a mistral model are alike", ErrConfig)
	case !some:
		return 0, nil, nil
	case !slices.Contains(local, false):
		return window, nil, nil
	}
	return window, local, nil
}

func (c Config) llamaFile() (llamaFile, error) {
	rope, err := c.ropeKeys()
	f := llamaFile{
		common: c.common(), Hidden: c.Hidden, Layers: c.Layers, Heads: c.Heads, KVHeads: c.KVHeads, HeadDim: c.HeadDim,
		Intermediate: c.Intermediate, MaxPositions: c.MaxPositions, NormEps: c.NormEps, Activation: "silu",
		AttentionBias: c.AttentionBias, ForwardBias: c.ForwardBias, windowKeys: c.windowKeys(), ropeKeys: rope,
	}
	if c.Family == Gemma3 {
		f.Activation, f.GemmaActivation, f.QueryScalar = "", "gelu_pytorch_tanh", c.QueryScalar
	}
	return f, err
}

// windowKeys writes what windows reads.
func (c Config) windowKeys() windowKeys {
	if c.Family == Llama {
		return windowKeys{}
	}
	f := windowKeys{Window: json.RawMessage("null")}
	switch {
	case c.SlidingWindow > 0:
		f.Window = fmt.Appendf(nil, "%d", c.SlidingWindow)
	case c.Family == Gemma3: // transformers wants one, local layers or not
		f.Window = fmt.Appendf(nil, "%d", c.MaxPositions)
	}
	if c.Family == Mistral {
		return f
	}
	first := c.Layers
	for i := range c.Layers {
		kind := globalLayer
		if c.Local(i) {
			kind, first = localLayer, min(first, i)
		}
		f.Types = append(f.Types, kind)
	}
	if c.Family == Qwen2 || c.Family == Qwen3 {
		windowed := c.SlidingWindow > 0
		f.UseWindow, f.MaxWindowLayers = &windowed, &first
	}
	return f
}
