package architecture

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Gemma3 is the text model of Gemma 3: local and global layers, each kind with its own rotary embedding, and norms before
// and after a layer.
const Gemma3 = "gemma3_text"

func gemma3() family {
	return family{
		name: Gemma3, class: "Gemma3ForCausalLM",
		Traits: Traits{
			HeadNorms: true, OutputNorms: true, NormOffset: 1, ScaledEmbeddings: true, GELU: true, LocalRope: true,
		},
		options: options{windows: true, localLayers: true, attentionBias: true, queryScalar: true},
		weights: rotaryWeights,
		format: rotaryFormat{
			defaults:   gemma3Defaults,
			windowed:   func(windowKeys) bool { return true },
			local:      gemma3Local,
			windowKeys: Config.gemma3Window,
		},
		rename:  gemma3Rename,
		wrapper: &wrapper{name: "gemma3", class: "Gemma3ForConditionalGeneration", parse: parseGemma3Text},
	}
}

// gemma3Defaults sets the values for absent keys. Gemma 3 writes only what differs from them, even of sizes.
func gemma3Defaults(f *rotaryFile) {
	yes := true
	f.Vocab, f.Hidden, f.Layers, f.Heads, f.KVHeads, f.HeadDim = 262208, 2304, 26, 8, 4, 256
	f.Intermediate, f.MaxPositions, f.QueryScalar = 9216, 131072, 256
	f.GELUActivation, f.TieEmbeddings = "gelu_pytorch_tanh", &yes
}

// gemma3Local tells whether a layer is local, if there are no layer_types.
func gemma3Local(f windowKeys, _, layer int) (bool, error) {
	n := or(f.Pattern, 6)
	if n < 1 {
		return false, fmt.Errorf("%w: sliding_window_pattern is %d", ErrConfig, n)
	}
	return (layer+1)%n != 0, nil
}

// gemma3Window are Gemma 3's keys. transformers expects a window even without local layers.
func (c Config) gemma3Window() windowKeys {
	f := c.slidingWindow()
	if c.SlidingWindow == 0 {
		f.Window = fmt.Appendf(nil, "%d", c.MaxPositions)
	}
	f.Types = c.layerTypes()
	return f
}

// gemma3Rename removes what a model with images puts in front of the names of its text model, and drops the part for images.
func gemma3Rename(name string) string {
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
	return name
}

// parseGemma3Text reads the text model from the text_config of a model with images. The special tokens may be beside it.
func parseGemma3Text(f family, head configHead, data []byte) (Config, error) {
	if !isSet(head.Text) {
		return Config{}, fmt.Errorf("%w: text_config is missing", ErrConfig)
	}
	var text configHead
	var outer common
	if err := json.Unmarshal(head.Text, &text); err != nil {
		return Config{}, fmt.Errorf("%w: text_config: %w", ErrConfig, err)
	}
	if text.ModelType != "" && text.ModelType != f.name {
		return Config{}, fmt.Errorf("%w: text_config: model_type is %q, want %s", ErrConfig, text.ModelType, f.name)
	}
	if isSet(text.Quantization) {
		return Config{}, fmt.Errorf("%w: text_config: quantised weights are not supported", ErrConfig)
	}
	if err := json.Unmarshal(data, &outer); err != nil {
		return Config{}, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	c, err := f.format.parse(f, head.Text)
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
