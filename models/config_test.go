package models_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/models"
)

// edited is a golden's config.json with some keys replaced; a nil value removes the key.
func edited(t *testing.T, golden string, edit map[string]any) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", golden, "config.json"))
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

func TestReadConfig(t *testing.T) {
	one := int64(1)
	small := models.Config{
		Vocab: 64, Hidden: 32, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 8, Intermediate: 56, MaxPositions: 128,
		NormEps: 1e-5, RopeTheta: 500, InitializerRange: 0.25, BOS: &one, EOS: []int64{2},
	}
	with := func(edit func(*models.Config)) models.Config {
		c := small
		edit(&c)
		return c
	}
	for _, test := range []struct {
		name   string
		golden string
		edit   map[string]any
		want   models.Config
	}{
		{"llama", "llama", nil, with(func(c *models.Config) { c.Family = models.Llama })},
		{"tied", "llama-tied", nil, with(func(c *models.Config) {
			c.Family, c.KVHeads, c.TieEmbeddings = models.Llama, 4, true
		})},
		{"mistral", "mistral", nil, with(func(c *models.Config) {
			c.Family, c.HeadDim, c.SlidingWindow = models.Mistral, 10, 128
		})},
		{"mistral without a window", "mistral", map[string]any{
			"sliding_window": json.RawMessage("null"),
		}, with(func(c *models.Config) { c.Family, c.HeadDim = models.Mistral, 10 })},
		{"absent keys", "llama", map[string]any{
			"num_key_value_heads": nil, "head_dim": nil, "max_position_embeddings": nil, "rms_norm_eps": nil,
			"rope_parameters": nil, "initializer_range": nil, "hidden_act": nil, "eos_token_id": nil, "bos_token_id": nil,
			"architectures": nil,
		}, with(func(c *models.Config) {
			c.Family, c.KVHeads, c.MaxPositions, c.NormEps, c.RopeTheta = models.Llama, 4, 2048, 1e-6, 10000
			c.InitializerRange, c.EOS, c.BOS = 0.02, nil, nil
		})},
		{"older keys", "llama", map[string]any{
			"rope_parameters": nil, "rope_theta": 500, "rope_scaling": map[string]any{"type": "default"},
			"eos_token_id": []int{2, 7},
		}, with(func(c *models.Config) { c.Family, c.EOS = models.Llama, []int64{2, 7} })},
		{"gpt2", "gpt2", nil, models.Config{
			Family: models.GPT2, Vocab: 64, Hidden: 32, Layers: 2, Heads: 4, KVHeads: 4, HeadDim: 8, Intermediate: 128,
			MaxPositions: 128, NormEps: 1e-5, TieEmbeddings: true, InitializerRange: 0.2, BOS: &one, EOS: []int64{2},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := models.ReadConfig(fstest.MapFS{"config.json": {Data: edited(t, test.golden, test.edit)}})
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
			again, err := models.ParseConfig(data)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(got, again); diff != "" {
				t.Errorf("written and read again (-want +got):\n%s", diff)
			}
		})
	}
}

// What would change the numbers and is not supported is refused.
func TestReadConfigRefuses(t *testing.T) {
	for _, test := range []struct {
		name   string
		golden string
		edit   map[string]any
	}{
		{"another family", "llama", map[string]any{"model_type": "qwen2"}},
		{"no family", "llama", map[string]any{"model_type": nil}},
		{"no language model", "llama", map[string]any{"architectures": []string{"LlamaForSequenceClassification"}}},
		{"quantised", "llama", map[string]any{"quantization_config": map[string]any{"bits": 4}}},
		{"activation", "llama", map[string]any{"hidden_act": "gelu"}},
		{"attention bias", "llama", map[string]any{"attention_bias": true}},
		{"feed-forward bias", "llama", map[string]any{"mlp_bias": true}},
		{"rope scaling", "llama", map[string]any{"rope_scaling": map[string]any{"rope_type": "llama3", "factor": 8}}},
		{"rope parameters", "llama", map[string]any{"rope_parameters": map[string]any{"rope_type": "yarn", "rope_theta": 500}}},
		{"two rope bases", "llama", map[string]any{"rope_theta": 10000}},
		{"partial rotation", "llama", map[string]any{"partial_rotary_factor": 0.5}},
		{"heads", "llama", map[string]any{"num_key_value_heads": 3}},
		{"odd head", "llama", map[string]any{"head_dim": 7}},
		{"missing size", "llama", map[string]any{"hidden_size": nil}},
		{"negative size", "llama", map[string]any{"num_hidden_layers": -1}},
		{"huge size", "llama", map[string]any{"vocab_size": 1 << 40}},
		{"no epsilon", "llama", map[string]any{"rms_norm_eps": -1}},
		{"wrong type", "llama", map[string]any{"hidden_size": "32"}},
		{"window", "mistral", map[string]any{"sliding_window": -4}},
		{"unnamed heads", "mistral", map[string]any{"num_key_value_heads": nil}},
		{"gpt2 activation", "gpt2", map[string]any{"activation_function": "relu"}},
		{"gpt2 scale", "gpt2", map[string]any{"scale_attn_weights": false}},
		{"gpt2 scale by layer", "gpt2", map[string]any{"scale_attn_by_inverse_layer_idx": true}},
		{"gpt2 cross attention", "gpt2", map[string]any{"add_cross_attention": true}},
		{"gpt2 heads", "gpt2", map[string]any{"n_head": 5}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := models.ParseConfig(edited(t, test.golden, test.edit))
			if !errors.Is(err, models.ErrConfig) {
				t.Errorf("error %v, want ErrConfig", err)
			}
		})
	}
	if _, err := models.ReadConfig(fstest.MapFS{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a file: error %v, want fs.ErrNotExist", err)
	}
}

func FuzzParseConfig(f *testing.F) {
	for _, name := range goldens {
		data, err := os.ReadFile(filepath.Join("testdata", name, "config.json"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := models.ParseConfig(data)
		if err != nil {
			return
		}
		written, err := c.JSON()
		if err != nil {
			t.Fatalf("a configuration that was read cannot be written: %v", err)
		}
		again, err := models.ParseConfig(written)
		if err != nil {
			t.Fatalf("a configuration that was written cannot be read: %v", err)
		}
		if diff := cmp.Diff(c, again); diff != "" {
			t.Errorf("written and read again (-want +got):\n%s", diff)
		}
	})
}

func TestMaxLength(t *testing.T) {
	for _, test := range []struct {
		config models.Config
		want   int
	}{
		{models.Config{MaxPositions: 100}, 100},
		{models.Config{MaxPositions: 100, SlidingWindow: 40}, 40},
		{models.Config{MaxPositions: 100, SlidingWindow: 400}, 100},
	} {
		if got := test.config.MaxLength(); got != test.want {
			t.Errorf("MaxLength of %+v is %d, want %d", test.config, got, test.want)
		}
	}
}
