package models

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// ErrConfig means a config.json that cannot be read, that contradicts itself, or that asks for something which would
// change the numbers and is not supported.
var ErrConfig = errors.New("models: config")

// The supported families, by their name in config.json's model_type. Mistral is Llama with a bound on the length, its
// sliding window.
const (
	Llama   = "llama"
	Mistral = "mistral"
	GPT2    = "gpt2"
)

var families = []string{Llama, Mistral, GPT2}

// architecture is the class that transformers opens for a family.
func architecture(family string) string {
	switch family {
	case Mistral:
		return "MistralForCausalLM"
	case GPT2:
		return "GPT2LMHeadModel"
	default:
		return "LlamaForCausalLM"
	}
}

// Config describes a model: one type for all families.
type Config struct {
	Family string
	Vocab  int // V
	Hidden int // H
	Layers int
	Heads  int
	// KVHeads is how many heads have keys and values of their own; Heads is a multiple of it. 0 means Heads.
	KVHeads int
	// HeadDim is D. 0 means Hidden/Heads.
	HeadDim int
	// Intermediate is the inner width of the feed-forward layer. 0 means 4·Hidden for GPT-2.
	Intermediate int
	// MaxPositions is the greatest length of a sequence.
	MaxPositions int
	// SlidingWindow bounds how far back Mistral attends; 0 is no bound. Longer sequences are refused, see MaxLength.
	SlidingWindow int
	// NormEps is the epsilon of RMSNorm or LayerNorm. 0 means 1e-5.
	NormEps float64
	// RopeTheta is the base of the rotary embedding's wavelengths. 0 means 10000. Not of GPT-2.
	RopeTheta float64
	// TieEmbeddings says that the output head is the embedding matrix.
	TieEmbeddings bool
	// InitializerRange is the standard deviation of random weights. 0 means 0.02.
	InitializerRange float64
	// BOS, EOS and Pad are special tokens; nil where the model names none.
	BOS *int64
	EOS []int64
	Pad *int64
}

// MaxLength is the greatest number of tokens in a sequence for which the model's numbers are those of its family.
func (c Config) MaxLength() int {
	if c.SlidingWindow > 0 {
		return min(c.MaxPositions, c.SlidingWindow)
	}
	return c.MaxPositions
}

// WithDefaults fills in the fields whose zero value stands for another one.
func (c Config) WithDefaults() Config {
	if c.KVHeads == 0 {
		c.KVHeads = c.Heads
	}
	if c.HeadDim == 0 && c.Heads > 0 {
		c.HeadDim = c.Hidden / c.Heads
	}
	if c.Intermediate == 0 && c.Family == GPT2 {
		c.Intermediate = 4 * c.Hidden
	}
	if c.NormEps == 0 {
		c.NormEps = 1e-5
	}
	if c.RopeTheta == 0 && c.Family != GPT2 {
		c.RopeTheta = 10000
	}
	if c.InitializerRange == 0 {
		c.InitializerRange = 0.02
	}
	return c
}

// Validate tells what is wrong with a configuration whose defaults are filled in. The error wraps ErrConfig.
func (c Config) Validate() error {
	if !slices.Contains(families, c.Family) {
		return fmt.Errorf("%w: model_type is %q, supported are llama, mistral and gpt2", ErrConfig, c.Family)
	}
	for _, size := range []struct {
		name  string
		value int
	}{
		{"vocabulary size", c.Vocab},
		{"hidden size", c.Hidden},
		{"number of layers", c.Layers},
		{"number of attention heads", c.Heads},
		{"number of key-value heads", c.KVHeads},
		{"head size", c.HeadDim},
		{"intermediate size", c.Intermediate},
		{"number of positions", c.MaxPositions},
	} {
		if size.value < 1 || size.value > 1<<31 {
			return fmt.Errorf("%w: the %s is %d", ErrConfig, size.name, size.value)
		}
	}
	switch {
	case c.Heads%c.KVHeads != 0:
		return fmt.Errorf("%w: %d attention heads are no multiple of %d key-value heads", ErrConfig, c.Heads, c.KVHeads)
	case c.Family != GPT2 && c.HeadDim%2 != 0:
		return fmt.Errorf("%w: the head size %d is odd, rotary embeddings need pairs", ErrConfig, c.HeadDim)
	case c.Family == GPT2 && (c.HeadDim*c.Heads != c.Hidden || c.KVHeads != c.Heads):
		return fmt.Errorf("%w: gpt2 splits its width %d evenly among %d heads", ErrConfig, c.Hidden, c.Heads)
	case c.SlidingWindow < 0 || (c.SlidingWindow > 0 && c.Family != Mistral):
		return fmt.Errorf("%w: sliding window %d in a %s model", ErrConfig, c.SlidingWindow, c.Family)
	case !(c.NormEps > 0) || !(c.InitializerRange > 0) || (c.Family != GPT2 && !(c.RopeTheta > 0)):
		return fmt.Errorf("%w: norm epsilon %g, initializer range %g and rope theta %g must be above 0",
			ErrConfig, c.NormEps, c.InitializerRange, c.RopeTheta)
	}
	return nil
}

// ReadConfig reads config.json from a Hugging Face folder. Keys that do not change the numbers are ignored; a value
// that would change them and is not supported is refused. Errors wrap ErrConfig or fs.ErrNotExist.
func ReadConfig(folder fs.FS) (Config, error) {
	data, err := fs.ReadFile(folder, "config.json")
	if err != nil {
		return Config{}, fmt.Errorf("models: read the model's configuration: %w", err)
	}
	c, err := ParseConfig(data)
	if err != nil {
		return Config{}, fmt.Errorf("config.json: %w", err)
	}
	return c, nil
}

// ParseConfig is ReadConfig for the bytes of a config.json.
func ParseConfig(data []byte) (Config, error) {
	var head struct {
		ModelType     string          `json:"model_type"`
		Architectures []string        `json:"architectures"`
		Quantization  json.RawMessage `json:"quantization_config"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return Config{}, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if !slices.Contains(families, head.ModelType) {
		return Config{}, fmt.Errorf("%w: model_type is %q, supported are llama, mistral and gpt2", ErrConfig, head.ModelType)
	}
	family := head.ModelType
	if want := architecture(family); len(head.Architectures) > 0 && !slices.Contains(head.Architectures, want) {
		return Config{}, fmt.Errorf("%w: architectures is %q, a language model of %s is %s",
			ErrConfig, head.Architectures, family, want)
	}
	if len(head.Quantization) > 0 && !bytes.Equal(head.Quantization, []byte("null")) {
		return Config{}, fmt.Errorf("%w: quantization_config: quantised weights are not supported", ErrConfig)
	}
	parse := parseLlama
	if family == GPT2 {
		parse = parseGPT2
	}
	c, err := parse(family, data)
	if err != nil {
		return Config{}, err
	}
	c = c.WithDefaults()
	return c, c.Validate()
}

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

// common are the keys of all families, as they are written.
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

func (c Config) common() common {
	return common{
		Architectures: []string{architecture(c.Family)}, ModelType: c.Family, Vocab: c.Vocab,
		TieEmbeddings: &c.TieEmbeddings, InitializerRange: &c.InitializerRange, BOS: c.BOS, EOS: c.EOS, Pad: c.Pad,
		TorchDType: "float32",
	}
}

// JSON is the model's config.json, as transformers opens it.
func (c Config) JSON() ([]byte, error) {
	c = c.WithDefaults()
	if err := c.Validate(); err != nil {
		return nil, err
	}
	var file any
	if c.Family == GPT2 {
		file = c.gpt2File()
	} else {
		file = c.llamaFile()
	}
	data, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("models: write config.json: %w", err)
	}
	return append(data, '\n'), nil
}

// or is *p, or d where the key is absent.
func or[T any](p *T, d T) T {
	if p == nil {
		return d
	}
	return *p
}
