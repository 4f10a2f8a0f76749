package architecture

import (
	"bytes"
	"encoding/json"
	"math"
)

// configHead has the keys that decide how to read the others.
type configHead struct {
	ModelType     string          `json:"model_type"`
	Architectures []string        `json:"architectures"`
	Quantization  json.RawMessage `json:"quantization_config"`
	Text          json.RawMessage `json:"text_config"`
}

// isSet tells whether a key is present and not null.
func isSet(value json.RawMessage) bool { return len(value) > 0 && !bytes.Equal(value, null) }

// tokens is a token id or a list of them, as eos_token_id is.
type tokens []int64

func (t *tokens) UnmarshalJSON(data []byte) error {
	if bytes.Equal(data, []byte("null")) {
		return nil
	}
	var one int64
	if err := json.Unmarshal(data, &one); err == nil {
		*t = tokens{one}
		return nil
	}
	var many []int64
	if err := json.Unmarshal(data, &many); err != nil {
		return err
	}
	if *t = nil; len(many) > 0 {
		*t = many
	}
	return nil
}

func (t tokens) MarshalJSON() ([]byte, error) {
	switch len(t) {
	case 0:
		return []byte("null"), nil
	case 1:
		return json.Marshal(t[0])
	default:
		return json.Marshal([]int64(t))
	}
}

// The values of layer_types.
const (
	localLayer  = "sliding_attention"
	globalLayer = "full_attention"
)

// common has the keys that all families have.
type common struct {
	Architectures    []string `json:"architectures"`
	ModelType        string   `json:"model_type"`
	Vocab            int      `json:"vocab_size"`
	TieEmbeddings    *bool    `json:"tie_word_embeddings"`
	InitializerRange *float64 `json:"initializer_range"`
	BOS              *int64   `json:"bos_token_id"`
	EOS              tokens   `json:"eos_token_id"`
	Pad              *int64   `json:"pad_token_id"`
	TorchDType       string   `json:"torch_dtype"`
}

// common gives the keys of a configuration; class is that of its family.
func (c Config) common(class string) common {
	return common{
		Architectures: []string{class}, ModelType: c.Family, Vocab: c.Vocab,
		TieEmbeddings: &c.TieEmbeddings, InitializerRange: &c.InitializerRange, BOS: c.BOS, EOS: c.EOS, Pad: c.Pad,
		TorchDType: "float32",
	}
}

// null is the JSON value.
var null = json.RawMessage("null")

// or is *p, or d where the key is absent.
func or[T any](p *T, d T) T {
	if p == nil {
		return d
	}
	return *p
}

func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }
