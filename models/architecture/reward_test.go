package architecture_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/safetensors"
)

// rewards has reward models whose numbers transformers computed.
const rewards = "../reward/testdata"

var rewardGoldens = []string{"v3", "v2", "c2p", "p2c", "plain"}

// changedReward copies a golden's config.json with some keys of another value; a nil takes the key away.
func changedReward(t testing.TB, name string, change map[string]any) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(rewards, name, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]any{}
	if err := json.Unmarshal(data, &fields); err != nil {
		t.Fatal(err)
	}
	for key, value := range change {
		if fields[key] = value; value == nil {
			delete(fields, key)
		}
	}
	if data, err = json.Marshal(fields); err != nil {
		t.Fatal(err)
	}
	return data
}

func TestRewardRefusesByKeyAndValue(t *testing.T) {
	for _, c := range []struct {
		key   string
		value any
		want  string // beside the key
	}{
		{"model_type", "deberta", `"deberta"`},
		{"model_type", nil, `""`},
		{"architectures", []string{"DebertaV2ForMaskedLM"}, "DebertaV2ForMaskedLM"},
		{"quantization_config", map[string]any{"bits": 4}, "not supported"},
		{"hidden_act", "gelu_new", "gelu_new"},
		{"pooler_hidden_act", "tanh", "tanh"},
		{"conv_kernel_size", 3, "3"},
		{"embedding_size", 16, "16"},
		{"pooler_hidden_size", 16, "16"},
		{"attention_head_size", 16, "16"},
		{"pos_att_type", "c2p|p2p", "p2p"},
		{"pos_att_type", []string{"C2P"}, "C2P"},
		{"pos_att_type", 3, "pos_att_type"},
		{"norm_rel_ebd", "batch_norm", "batch_norm"},
		{"num_labels", 2, "2"},
		{"position_buckets", 1, "1"},
		{"position_buckets", 126, "126"},
		{"vocab_size", 0, "0"},
		{"hidden_size", 0, "0"},
		{"hidden_size", 33, "pooler_hidden_size"},
		{"num_attention_heads", 0, "0"},
		{"num_attention_heads", 3, "3"},
		{"num_hidden_layers", nil, "0"},
		{"intermediate_size", -1, "-1"},
		{"max_position_embeddings", 0, "0"},
		{"type_vocab_size", -1, "-1"},
		{"num_hidden_layers", 2_000_000_000, "2000000000"},
		{"vocab_size", 1 << 40, "1099511627776"},
		{"layer_norm_eps", 0, "0"},
		{"vocab_size", "many", "vocab_size"},
	} {
		_, err := architecture.ParseReward(changedReward(t, "v3", map[string]any{c.key: c.value}))
		if !errors.Is(err, architecture.ErrConfig) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s = %v: the error is %v, want one with %q", c.key, c.value, err, c.want)
		}
	}
	if _, err := architecture.ReadReward(os.DirFS(t.TempDir())); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no config.json: %v", err)
	}
}

func TestRewardKeysMayBeLeftOut(t *testing.T) {
	for _, name := range rewardGoldens {
		want, err := architecture.ParseReward(changedReward(t, name, nil))
		if err != nil {
			t.Fatal(err)
		}
		defaults := map[string]any{"architectures": nil, "layer_norm_eps": nil, "pooler_hidden_size": nil, "legacy": nil, "hidden_act": nil}
		got, err := architecture.ParseReward(changedReward(t, name, defaults))
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v\n%s", name, err, diff)
		}
	}
	for _, c := range []struct {
		change map[string]any
		labels int
	}{
		{map[string]any{"id2label": nil}, 2},
		{map[string]any{"id2label": nil, "num_labels": 5}, 5},
		{map[string]any{"num_labels": 1}, 1},
	} {
		if got, err := architecture.ParseReward(changedReward(t, "v3", c.change)); err != nil || got.Labels != c.labels {
			t.Errorf("%v: %d labels, %v", c.change, got.Labels, err)
		}
	}
}

// The configuration of the model that users have, and the buckets that its table of positions is made for.
func TestTheLargeRewardModel(t *testing.T) {
	cfg, err := architecture.ParseReward([]byte(`{"model_type": "deberta-v2", "architectures": ["DebertaV2ForSequenceClassification"],
		"attention_probs_dropout_prob": 0.1, "hidden_act": "gelu", "hidden_size": 1024, "id2label": {"0": "LABEL_0"},
		"intermediate_size": 4096, "layer_norm_eps": 1e-07, "max_position_embeddings": 512, "max_relative_positions": -1,
		"norm_rel_ebd": "layer_norm", "num_attention_heads": 16, "num_hidden_layers": 24, "pad_token_id": 0,
		"pooler_dropout": 0, "pooler_hidden_act": "gelu", "pooler_hidden_size": 1024, "pos_att_type": ["p2c", "c2p"],
		"position_biased_input": false, "position_buckets": 256, "relative_attention": true, "share_att_key": true,
		"type_vocab_size": 0, "vocab_size": 128100}`))
	if err != nil {
		t.Fatal(err)
	}
	want := architecture.Reward{
		Vocab: 128100, Hidden: 1024, Layers: 24, Heads: 16, Intermediate: 4096, MaxPositions: 512, NormEps: 1e-7, Labels: 1,
		Relative: true, C2P: true, P2C: true, ShareKey: true, Buckets: 256, MaxRelative: 512, NormRelative: true,
	}
	if diff := cmp.Diff(want, cfg); diff != "" {
		t.Error(diff)
	}
}

func TestRewardWeightsThatDoNotFit(t *testing.T) {
	for _, c := range []struct {
		change map[string]any
		want   string
	}{
		{map[string]any{"vocab_size": 261}, "word_embeddings.weight is [260 32], want [261 32]"},
		{map[string]any{"num_hidden_layers": 3}, "missing: deberta.encoder.layer.2.attention.self.query_proj.weight"},
		{map[string]any{"num_hidden_layers": 1}, "unknown: deberta.encoder.layer.1.attention.output.LayerNorm.bias"},
		{map[string]any{"share_att_key": false}, "missing: deberta.encoder.layer.0.attention.self.pos_key_proj.weight"},
		{map[string]any{"norm_rel_ebd": "none"}, "unknown: deberta.encoder.LayerNorm.bias"},
		{map[string]any{"position_biased_input": true}, "missing: deberta.embeddings.position_embeddings.weight"},
	} {
		cfg, err := architecture.ParseReward(changedReward(t, "v3", c.change))
		if err != nil {
			t.Fatal(err)
		}
		files, err := safetensors.OpenModel("../reward/testdata/v3")
		if err != nil {
			t.Fatal(err)
		}
		err = cfg.Fits(files.Tensors())
		if !errors.Is(err, architecture.ErrWeights) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: the error is %v, want %q", c.change, err, c.want)
		}
		if err := files.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzParseReward(f *testing.F) {
	for _, name := range rewardGoldens {
		f.Add(changedReward(f, name, nil))
	}
	f.Add([]byte(`{"model_type":"deberta-v2","pos_att_type":null,"norm_rel_ebd":null,"position_buckets":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := architecture.ParseReward(data)
		if err != nil {
			if !errors.Is(err, architecture.ErrConfig) {
				t.Fatal(err)
			}
			return
		}
		if cfg.Hidden%cfg.Heads != 0 || cfg.MaxLength() < 1 || cfg.Labels < 1 || (cfg.Relative && cfg.MaxRelative < 1) {
			t.Fatalf("%+v", cfg)
		}
	})
}
