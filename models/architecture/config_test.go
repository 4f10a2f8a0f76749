package architecture_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/models/architecture"
)

// testdata has models whose numbers transformers computed.
const testdata = "../testdata"

// goldens are the models in testdata, every family among them.
var goldens = []string{
	"llama", "llama-tied", "llama-bf16", "llama3-f16", "llama-linear-bias", "mistral", "mistral-window", "qwen2",
	"qwen2-window-bf16", "qwen3", "qwen3-shards", "gemma3", "gemma3-bf16", "gemma3-images", "gpt2",
}

// edited is a golden's config.json with some keys replaced; a nil value removes the key.
func edited(t *testing.T, golden string, edit map[string]any) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(testdata, golden, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var keys map[string]any
	if err := json.Unmarshal(data, &keys); err != nil {
		t.Fatal(err)
	}
	maps.Copy(keys, edit)
	for key, value := range edit {
		if value == nil {
			delete(keys, key)
		}
	}
	if data, err = json.Marshal(keys); err != nil {
		t.Fatal(err)
	}
	return data
}

// sixth are layers of which all but every sixth are local.
func sixth(layers int) []bool {
	local := make([]bool, layers)
	for i := range local {
		local[i] = (i+1)%6 != 0
	}
	return local
}

func TestReadConfig(t *testing.T) {
	one := int64(1)
	small := architecture.Config{
		Vocab: 64, Hidden: 32, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 8, Intermediate: 56, MaxPositions: 128,
		NormEps: 1e-5, RopeTheta: 500, InitializerRange: 0.25, BOS: &one, EOS: []int64{2},
	}
	with := func(edit func(*architecture.Config)) architecture.Config {
		c := small
		edit(&c)
		return c
	}
	other := func(edit func(*architecture.Config)) architecture.Config {
		c := small
		c.Hidden, c.Intermediate, c.NormEps, c.InitializerRange = 24, 40, 1e-6, 0.3
		edit(&c)
		return c
	}
	zero, two := int64(0), int64(2)
	gemma := func(layers int, local ...bool) architecture.Config {
		return other(func(c *architecture.Config) {
			c.Family, c.Layers, c.HeadDim, c.QueryScalar, c.InitializerRange = architecture.Gemma3, layers, 10, 12, 0.2
			c.SlidingWindow, c.LocalLayers, c.TieEmbeddings = 9, local, true
			c.RopeTheta, c.LocalRopeTheta = 5000, 100
			c.RopeScaling = architecture.RopeScaling{Kind: architecture.LinearRope, Factor: 4}
			c.BOS, c.EOS, c.Pad = &two, []int64{1}, &zero
		})
	}
	for _, test := range []struct {
		name   string
		golden string
		edit   map[string]any
		want   architecture.Config
	}{
		{"llama", "llama", nil, with(func(c *architecture.Config) { c.Family = architecture.Llama })},
		{"tied", "llama-tied", nil, with(func(c *architecture.Config) {
			c.Family, c.KVHeads, c.TieEmbeddings = architecture.Llama, 4, true
		})},
		{"llama with biases", "llama", map[string]any{"attention_bias": true, "mlp_bias": true}, with(func(c *architecture.Config) {
			c.Family, c.AttentionBias, c.ForwardBias = architecture.Llama, true, true
		})},
		{"linear rope", "llama", map[string]any{
			"rope_parameters": map[string]any{"rope_type": "linear", "factor": 8, "rope_theta": 500},
		}, with(func(c *architecture.Config) {
			c.Family, c.RopeScaling = architecture.Llama, architecture.RopeScaling{Kind: architecture.LinearRope, Factor: 8}
		})},
		{"llama3 rope by older keys", "llama", map[string]any{
			"rope_parameters": nil, "rope_theta": 500, "rope_scaling": map[string]any{
				"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
				"original_max_position_embeddings": 64,
			},
		}, with(func(c *architecture.Config) {
			c.Family, c.RopeScaling = architecture.Llama, architecture.RopeScaling{
				Kind: architecture.Llama3Rope, Factor: 32, LowFreq: 1, HighFreq: 4, Original: 64,
			}
		})},
		{"mistral", "mistral", nil, with(func(c *architecture.Config) {
			c.Family, c.HeadDim, c.SlidingWindow = architecture.Mistral, 10, 128
		})},
		{"mistral without a window", "mistral", map[string]any{
			"sliding_window": json.RawMessage("null"),
		}, with(func(c *architecture.Config) { c.Family, c.HeadDim = architecture.Mistral, 10 })},
		{"absent keys", "llama", map[string]any{
			"num_key_value_heads": nil, "head_dim": nil, "max_position_embeddings": nil, "rms_norm_eps": nil,
			"rope_parameters": nil, "initializer_range": nil, "hidden_act": nil, "eos_token_id": nil, "bos_token_id": nil,
			"architectures": nil,
		}, with(func(c *architecture.Config) {
			c.Family, c.KVHeads, c.MaxPositions, c.NormEps, c.RopeTheta = architecture.Llama, 4, 2048, 1e-6, 10000
			c.InitializerRange, c.EOS, c.BOS = 0.02, nil, nil
		})},
		{"older keys", "llama", map[string]any{
			"rope_parameters": nil, "rope_theta": 500, "rope_scaling": map[string]any{"type": "default"},
			"eos_token_id": []int{2, 7},
		}, with(func(c *architecture.Config) { c.Family, c.EOS = architecture.Llama, []int64{2, 7} })},
		{"qwen2", "qwen2", nil, other(func(c *architecture.Config) { c.Family, c.HeadDim = architecture.Qwen2, 6 })},
		{"qwen2 with a window that is off", "qwen2", map[string]any{
			"use_sliding_window": false, "sliding_window": 4096, "max_window_layers": 0, "layer_types": nil,
		}, other(func(c *architecture.Config) { c.Family, c.HeadDim = architecture.Qwen2, 6 })},
		{"qwen2 with local layers", "qwen2-window-bf16", map[string]any{"layer_types": nil}, other(func(c *architecture.Config) {
			c.Family, c.HeadDim, c.SlidingWindow, c.LocalLayers = architecture.Qwen2, 6, 10, []bool{false, true}
			c.TieEmbeddings = true
		})},
		{"qwen2 whose layers are all local", "qwen2-window-bf16", map[string]any{
			"layer_types": nil, "max_window_layers": 0,
		}, other(func(c *architecture.Config) {
			c.Family, c.HeadDim, c.SlidingWindow, c.TieEmbeddings = architecture.Qwen2, 6, 10, true
		})},
		{"qwen3", "qwen3-shards", nil, other(func(c *architecture.Config) {
			c.Family, c.HeadDim, c.SlidingWindow, c.LocalLayers = architecture.Qwen3, 6, 12, []bool{true, false}
			c.AttentionBias = true
		})},
		{"gemma3", "gemma3", nil, gemma(3, true, false, true)},
		{"gemma3 by older keys", "gemma3", map[string]any{
			"rope_parameters": nil, "layer_types": nil, "rope_theta": 5000, "rope_local_base_freq": 100,
			"rope_scaling": map[string]any{"rope_type": "linear", "factor": 4}, "sliding_window_pattern": 2,
		}, gemma(3, true, false, true)},
		{"gemma3 with images", "gemma3-images", map[string]any{"eos_token_id": 1}, gemma(2, true, false)},
		{"the released gemma3 of 4 B", "gemma3-images", map[string]any{
			"text_config": map[string]any{
				"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
				"rope_scaling": map[string]any{"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
			}, "eos_token_id": []int{1, 106},
		}, architecture.Config{
			Family: architecture.Gemma3, Vocab: 262208, Hidden: 2560, Layers: 34, Heads: 8, KVHeads: 4, HeadDim: 256,
			Intermediate: 10240, MaxPositions: 131072, NormEps: 1e-6, RopeTheta: 1e6, LocalRopeTheta: 1e4, QueryScalar: 256,
			RopeScaling:   architecture.RopeScaling{Kind: architecture.LinearRope, Factor: 8},
			SlidingWindow: 1024, LocalLayers: sixth(34), TieEmbeddings: true, InitializerRange: 0.02, EOS: []int64{1, 106},
		}},
		{"gpt2", "gpt2", nil, architecture.Config{
			Family: architecture.GPT2, Vocab: 64, Hidden: 32, Layers: 2, Heads: 4, KVHeads: 4, HeadDim: 8, Intermediate: 128,
			MaxPositions: 128, NormEps: 1e-5, TieEmbeddings: true, InitializerRange: 0.2, BOS: &one, EOS: []int64{2},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := architecture.ReadConfig(fstest.MapFS{"config.json": {Data: edited(t, test.golden, test.edit)}})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("config (-want +got):\n%s", diff)
			}
			data, err := got.JSON()
			if err != nil {
				t.Fatal(err)
			}
			again, err := architecture.ParseConfig(data)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(got, again); diff != "" {
				t.Errorf("written and read again (-want +got):\n%s", diff)
			}
		})
	}
}

// Every row of the table of families has a model that transformers computed, and is named where another is refused.
func TestFamiliesHaveGoldens(t *testing.T) {
	found := map[string]bool{}
	for _, name := range goldens {
		var head struct {
			Type string `json:"model_type"`
		}
		if err := json.Unmarshal(edited(t, name, nil), &head); err != nil {
			t.Fatal(err)
		}
		found[head.Type] = true
	}
	_, err := architecture.ParseConfig([]byte(`{"model_type": "other"}`))
	for _, family := range architecture.Families() {
		if !found[family] {
			t.Errorf("%s has no model in %s", family, testdata)
		}
		if err == nil || !strings.Contains(err.Error(), family) {
			t.Errorf("%s is not named where another is refused: %v", family, err)
		}
	}
	if len(architecture.Families()) != len(found) {
		t.Errorf("%d model types in %s, %d in the table", len(found), testdata, len(architecture.Families()))
	}
}

// What would change the numbers and is not supported is refused, in one line that says what it is.
func TestReadConfigRefuses(t *testing.T) {
	rope := func(kind string, keys ...any) map[string]any {
		all := map[string]any{"rope_type": kind}
		for i := 0; i < len(keys); i += 2 {
			all[keys[i].(string)] = keys[i+1]
		}
		return map[string]any{"rope_parameters": all}
	}
	types := func(kinds ...string) map[string]any { return map[string]any{"layer_types": kinds} }
	for _, test := range []struct {
		name   string
		golden string
		edit   map[string]any
		says   string
	}{
		{"another family", "llama", map[string]any{"model_type": "qwen2_moe"}, `"qwen2_moe"`},
		{"no family", "llama", map[string]any{"model_type": nil}, "model_type"},
		{"no language model", "llama", map[string]any{
			"architectures": []string{"LlamaForSequenceClassification"},
		}, "LlamaForCausalLM"},
		{"quantised", "llama", map[string]any{"quantization_config": map[string]any{"bits": 4}}, "quantization_config"},
		{"activation", "llama", map[string]any{"hidden_act": "gelu"}, `"gelu"`},
		{"attention bias", "mistral", map[string]any{"attention_bias": true}, "attention_bias"},
		{"feed-forward bias", "qwen2", map[string]any{"mlp_bias": true}, "mlp_bias"},
		{"two rope scalings", "llama3-f16", map[string]any{
			"rope_scaling": map[string]any{"rope_type": "linear", "factor": 8},
		}, "differ"},
		{"yarn", "llama", rope("yarn", "factor", 4.0), `"yarn"`},
		{"older dynamic", "llama", map[string]any{
			"rope_parameters": nil, "rope_scaling": map[string]any{"type": "dynamic", "factor": 2},
		}, `"dynamic"`},
		{"unknown rope key", "llama", rope("default", "mscale", 2), "mscale"},
		{"factor without a kind", "llama", rope("default", "factor", 2), "no factors"},
		{"linear without a factor", "llama", rope("linear"), "a factor"},
		{"linear by nothing", "llama", rope("linear", "factor", 0), "makes no sense"},
		{"llama3 without factors", "llama", rope("llama3", "factor", 8), "low_freq_factor"},
		{"llama3 upside down", "llama", rope("llama3", "factor", 8, "low_freq_factor", 4, "high_freq_factor", 1), "makes no sense"},
		{"two rope bases", "llama", map[string]any{"rope_theta": 10000}, "rope_theta"},
		{"partial rotation", "llama", map[string]any{"partial_rotary_factor": 0.5}, "partial_rotary_factor"},
		{"partial rotation within", "llama", rope("default", "partial_rotary_factor", 0.5), "partial_rotary_factor"},
		{"heads", "llama", map[string]any{"num_key_value_heads": 3}, "multiple"},
		{"odd head", "llama", map[string]any{"head_dim": 7}, "odd"},
		{"missing size", "llama", map[string]any{"hidden_size": nil}, "hidden size"},
		{"negative size", "llama", map[string]any{"num_hidden_layers": -1}, "number of layers"},
		{"huge size", "llama", map[string]any{"vocab_size": 1 << 40}, "vocabulary size"},
		{"hidden size of 10^12", "llama", map[string]any{"hidden_size": 1_000_000_000_000}, "hidden size"},
		{"layers without end", "llama", map[string]any{"num_hidden_layers": 1 << 30}, "number of layers"},
		{"large sizes everywhere", "llama", map[string]any{"hidden_size": 1 << 23, "vocab_size": 1 << 23}, "parameters"},
		{"no epsilon", "llama", map[string]any{"rms_norm_eps": -1}, "epsilon"},
		{"wrong type", "llama", map[string]any{"hidden_size": "32"}, "hidden_size"},
		{"window", "mistral", map[string]any{"sliding_window": -4}, "sliding_window"},
		{"unnamed heads", "mistral", map[string]any{"num_key_value_heads": nil}, "num_key_value_heads"},
		{"layers of two kinds", "mistral", types("full_attention", "sliding_attention"), "layer_types"},
		{"local layers without a window", "llama", types("full_attention", "sliding_attention"), "sliding_window"},
		{"a window that is off", "qwen2", types("full_attention", "sliding_attention"), "sliding_window"},
		{"too few layer types", "qwen3", types("full_attention"), "layer_types"},
		{"another kind of layer", "qwen3", types("full_attention", "chunked_attention"), "chunked_attention"},
		{"gemma3 activation", "gemma3", map[string]any{"hidden_activation": "gelu"}, "hidden_activation"},
		{"soft caps of scores", "gemma3", map[string]any{"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"},
		{"soft caps of logits", "gemma3", map[string]any{"final_logit_softcapping": 30.0}, "final_logit_softcapping"},
		{"an encoder", "gemma3", map[string]any{"use_bidirectional_attention": true}, "use_bidirectional_attention"},
		{"one rope for both kinds", "gemma3", rope("default"), "rope_parameters"},
		{"scaled local layers", "gemma3", map[string]any{"rope_parameters": map[string]any{
			"sliding_attention": map[string]any{"rope_type": "linear", "factor": 2},
		}}, "local layers are not scaled"},
		{"two local rope bases", "gemma3", map[string]any{"rope_local_base_freq": 5}, "rope_local_base_freq"},
		{"no pattern", "gemma3", map[string]any{"layer_types": nil, "sliding_window_pattern": 0}, "sliding_window_pattern"},
		{"no text model", "gemma3-images", map[string]any{"text_config": nil}, "text_config"},
		{"another text model", "gemma3-images", map[string]any{
			"text_config": map[string]any{"model_type": "llama"},
		}, "text_config"},
		{"gpt2 activation", "gpt2", map[string]any{"activation_function": "relu"}, `"relu"`},
		{"gpt2 scale", "gpt2", map[string]any{"scale_attn_weights": false}, "scale_attn_weights"},
		{"gpt2 scale by layer", "gpt2", map[string]any{"scale_attn_by_inverse_layer_idx": true}, "inverse_layer"},
		{"gpt2 cross attention", "gpt2", map[string]any{"add_cross_attention": true}, "cross_attention"},
		{"gpt2 heads", "gpt2", map[string]any{"n_head": 5}, "heads"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := architecture.ParseConfig(edited(t, test.golden, test.edit))
			if !errors.Is(err, architecture.ErrConfig) || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want ErrConfig in one line that says %q", err, test.says)
			}
		})
	}
	if _, err := architecture.ReadConfig(fstest.MapFS{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a file: error %v, want fs.ErrNotExist", err)
	}
	for name, data := range map[string][]byte{
		"empty": nil, "cut off": []byte(`{"model_type": "lla`), "a list": []byte(`[]`), "huge": bytes.Repeat([]byte(" "), 2<<20),
	} {
		if _, err := architecture.ReadConfig(fstest.MapFS{"config.json": {Data: data}}); !errors.Is(err, architecture.ErrConfig) {
			t.Errorf("%s: error %v, want ErrConfig", name, err)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	for _, name := range goldens {
		data, err := os.ReadFile(filepath.Join(testdata, name, "config.json"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		c, err := architecture.ParseConfig(data)
		runtime.ReadMemStats(&after)
		// What is allocated is bounded by the file and by the greatest number of layers.
		if used := after.TotalAlloc - before.TotalAlloc; used > 64<<20+1000*uint64(len(data)) {
			t.Fatalf("%d bytes allocated for a file of %d", used, len(data))
		}
		if err != nil {
			return
		}
		written, err := c.JSON()
		if err != nil {
			t.Fatalf("a configuration that was read cannot be written: %v", err)
		}
		again, err := architecture.ParseConfig(written)
		if err != nil {
			t.Fatalf("a configuration that was written cannot be read: %v", err)
		}
		if diff := cmp.Diff(c, again); diff != "" {
			t.Errorf("written and read again (-want +got):\n%s", diff)
		}
	})
}
