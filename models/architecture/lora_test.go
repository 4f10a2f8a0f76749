package architecture_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/models/architecture"
)

func TestParseLoRARefuses(t *testing.T) {
	const good = `"peft_type": "LORA", "target_modules": ["q_proj"]`
	for _, test := range []struct{ text, want string }{
		{`{`, "JSON"},
		{`[]`, "array"},
		{`{"target_modules": ["q_proj"]}`, "peft_type is missing"},
		{`{"peft_type": "IA3"}`, `peft_type is "IA3"`},
		{`{"peft_type": "LORA"}`, "target_modules is empty"},
		{`{"peft_type": "LORA", "target_modules": null}`, "target_modules is empty"},
		{`{"peft_type": "LORA", "target_modules": 7}`, "target_modules is 7"},
		{`{"peft_type": "LORA", "target_modules": "(?!q_proj).*"}`, "target_modules: error parsing regexp"},
		{`{"peft_type": "LORA", "target_modules": "q_proj)|(.*"}`, "target_modules: error parsing regexp"},
		{`{` + good + `, "use_dora": true}`, "use_dora is true"},
		{`{` + good + `, "lora_bias": true}`, "lora_bias is true"},
		{`{` + good + `, "bias": "lora_only"}`, `bias is "lora_only"`},
		{`{` + good + `, "modules_to_save": ["lm_head"]}`, `modules_to_save is ["lm_head"]`},
		{`{` + good + `, "layer_replication": [[0, 4], [2, 5]]}`, "layer_replication is [[0,4],[2,5]]"},
		{`{` + good + `, "trainable_token_indices": [1]}`, "trainable_token_indices is [1]"},
		{`{` + good + `, "target_parameters": ["x"]}`, `target_parameters is ["x"]`},
		{`{` + good + `, "megatron_config": {"a": 1}}`, `megatron_config is {"a":1}`},
		{`{` + good + `, "layers_pattern": "h"}`, `layers_pattern is "h"`},
		{`{` + good + `, "init_lora_weights": "pissa"}`, `init_lora_weights is "pissa"`},
		{`{` + good + `, "some_new_key": 3}`, "some_new_key is 3"},
		{`{` + good + `, "r": 0}`, "r is 0"},
		{`{` + good + `, "r": 1000000}`, "r is 1000000"},
		{`{` + good + `, "r": "8"}`, `r is "8"`},
		{`{` + good + `, "lora_dropout": 1}`, "lora_dropout is 1"},
		{`{` + good + `, "rank_pattern": {"q_proj": 0}}`, `rank_pattern: "q_proj" is 0`},
		{`{` + good + `, "rank_pattern": {"q_proj": 1, "q_proj": 2}}`, "twice"},
		{`{` + good + `, "alpha_pattern": [1]}`, "alpha_pattern is [1]"},
		{`{` + good + `, "alpha_pattern": {"(": 1}}`, "alpha_pattern: error parsing regexp"},
		{`{"peft_type": "LORA", "target_modules": ".*q_proj", "layers_to_transform": [1]}`, "layers_to_transform"},
	} {
		_, err := architecture.ParseLoRA([]byte(test.text))
		if !errors.Is(err, architecture.ErrAdapter) || !strings.Contains(err.Error(), test.want) ||
			strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want one line that says %q", test.text, err, test.want)
		}
	}
	l, err := architecture.ParseLoRA([]byte(`{` + good + `, "layers_to_transform": 3}`))
	if diff := cmp.Diff([]int{3}, l.Layers); diff != "" || err != nil || l.Rank != 8 || l.Alpha != 8 {
		t.Errorf("PEFT's defaults: %+v, %v", l, err)
	}
}

// FuzzParseLoRA: no bytes make the parser panic, and what it accepts is valid.
func FuzzParseLoRA(f *testing.F) {
	for _, name := range []string{"llama", "llama-patterns", "llama-layers", "gpt2", "qwen2", "gemma3"} {
		data, err := os.ReadFile(filepath.Join(testdata, "adapters", name, architecture.AdapterConfigFile))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"peft_type":"LORA","target_modules":["a"],"rank_pattern":{"a":1},"layers_to_transform":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := architecture.ParseLoRA(data)
		if err != nil {
			if !errors.Is(err, architecture.ErrAdapter) {
				t.Errorf("%v does not wrap ErrAdapter", err)
			}
			return
		}
		if err := l.Validate(); err != nil {
			t.Errorf("accepted, and not valid: %v", err)
		}
	})
}

// A base is named by its folder, or by the Hub's id and revision.
func TestAdapterBase(t *testing.T) {
	dir := t.TempDir()
	config := func(text string) {
		if err := os.WriteFile(filepath.Join(dir, architecture.AdapterConfigFile), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ config, want string }{
		{`{"base_model_name_or_path": "acme/tiny"}`, "acme/tiny"},
		{`{"base_model_name_or_path": "acme/tiny", "revision": "v1"}`, "acme/tiny@v1"},
		{`{"base_model_name_or_path": "` + dir + `", "revision": "main"}`, dir},
		{`{"base_model_name_or_path": null, "revision": "main"}`, ""},
		{`{}`, ""},
	} {
		config(c.config)
		if got, err := architecture.AdapterBase(dir); got != c.want || err != nil {
			t.Errorf("%s: %q, %v, want %q", c.config, got, err, c.want)
		}
	}
	config(`{"base_model_name_or_path": 3}`)
	if _, err := architecture.AdapterBase(dir); !errors.Is(err, architecture.ErrAdapter) || !strings.Contains(err.Error(), dir) {
		t.Errorf("%v", err)
	}
}
