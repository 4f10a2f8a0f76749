package architecture

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
)

// ErrConfig means a config.json that cannot be read, that contradicts itself, or that asks for something which would
// change the numbers and is not supported.
var ErrConfig = errors.New("models: config")

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
	// SlidingWindow is how many positions a local layer attends to, the token's own among them; 0: there are no local
	// layers. Not of Llama and GPT-2.
	SlidingWindow int
	// LocalLayers says of each layer whether it is local; nil: all are, when there is a SlidingWindow.
	LocalLayers []bool
	// NormEps is the epsilon of RMSNorm or LayerNorm. 0 means 1e-5.
	NormEps float64
	// RopeTheta is the base of the rotary embedding's wavelengths. 0 means 10000. Not of GPT-2.
	RopeTheta float64
	// RopeScaling stretches the wavelengths.
	RopeScaling RopeScaling
	// LocalRopeTheta is the RopeTheta of Gemma 3's local layers, which are not stretched. 0 means 10000 there.
	LocalRopeTheta float64
	// QueryScalar is what the square root of divides Gemma 3's attention scores. 0 means HeadDim, as in all other families.
	QueryScalar float64
	// AttentionBias says that all projections of attention have biases. Qwen2's of query, key and value always have.
	AttentionBias bool
	// ForwardBias says that Llama's feed-forward layers have biases.
	ForwardBias bool
	// TieEmbeddings says that the output head is the embedding matrix.
	TieEmbeddings bool
	// InitializerRange is the standard deviation of random weights. 0 means 0.02.
	InitializerRange float64
	// BOS, EOS and Pad are special tokens; nil where the model names none.
	BOS *int64
	EOS []int64
	Pad *int64
}

// The kinds of RopeScaling.
const (
	LinearRope = "linear" // all wavelengths are Factor times as long
	Llama3Rope = "llama3" // the long ones are
)

// RopeScaling stretches the wavelengths of the rotary embedding, so that a model goes on beyond the positions that it was
// first trained on.
type RopeScaling struct {
	Kind   string  // "" (none), LinearRope or Llama3Rope
	Factor float64 // how many times as long
	// Of Llama3Rope: a wavelength above Original/LowFreq is stretched, one below Original/HighFreq is not, and those in
	// between are stretched by degrees.
	LowFreq, HighFreq float64
	Original          int
}

// MaxLength is the greatest number of tokens in a sequence.
func (c Config) MaxLength() int { return c.MaxPositions }

// Local tells whether a layer attends within the sliding window only.
func (c Config) Local(layer int) bool {
	return c.SlidingWindow > 0 && (c.LocalLayers == nil || c.LocalLayers[layer])
}

// Window is how many positions a layer attends to, 0 for all.
func (c Config) Window(layer int) int {
	if c.Local(layer) {
		return c.SlidingWindow
	}
	return 0
}

// AttentionScale is what attention scores are multiplied by.
func (c Config) AttentionScale() float64 {
	if c.QueryScalar > 0 {
		return 1 / math.Sqrt(c.QueryScalar)
	}
	return 1 / math.Sqrt(float64(c.HeadDim))
}

// WithDefaults fills in the fields whose zero value stands for another one.
func (c Config) WithDefaults() Config {
	if c.KVHeads == 0 {
		c.KVHeads = c.Heads
	}
	if c.HeadDim == 0 && c.Heads > 0 {
		c.HeadDim = c.Hidden / c.Heads
	}
	traits := c.Traits()
	rotary := traits.Network == RotaryNetwork
	if c.Intermediate == 0 && !rotary {
		c.Intermediate = 4 * c.Hidden
	}
	if c.NormEps == 0 {
		c.NormEps = 1e-5
	}
	if c.QueryScalar == 0 && c.family().options.queryScalar {
		c.QueryScalar = float64(c.HeadDim)
	}
	if c.RopeTheta == 0 && rotary {
		c.RopeTheta = 10000
	}
	if c.LocalRopeTheta == 0 && traits.LocalRope {
		c.LocalRopeTheta = 10000
	}
	if !slices.Contains(c.LocalLayers, false) {
		c.LocalLayers = nil
	}
	if c.LocalLayers != nil && !slices.Contains(c.LocalLayers, true) {
		c.SlidingWindow, c.LocalLayers = 0, nil
	}
	if c.InitializerRange == 0 {
		c.InitializerRange = 0.02
	}
	return c
}

// The greatest sizes that a configuration may have: more than any model's, and so little that what is counted and named
// by them costs nothing.
const (
	maxLayers     = 1 << 12
	maxSize       = 1 << 24
	maxPositions  = 1 << 31
	maxParameters = 1e13
)

// Validate tells what is wrong with a configuration whose defaults are filled in. The error wraps ErrConfig.
func (c Config) Validate() error {
	family := c.family()
	if family.name == "" {
		return errFamily(c.Family)
	}
	for _, size := range []struct {
		name        string
		value, most int
	}{
		{"vocabulary size", c.Vocab, maxSize},
		{"hidden size", c.Hidden, maxSize},
		{"number of layers", c.Layers, maxLayers},
		{"number of attention heads", c.Heads, maxSize},
		{"number of key-value heads", c.KVHeads, maxSize},
		{"head size", c.HeadDim, maxSize},
		{"intermediate size", c.Intermediate, maxSize},
		{"number of positions", c.MaxPositions, maxPositions},
	} {
		if size.value < 1 || size.value > size.most {
			return fmt.Errorf("%w: the %s is %d, want 1 to %d", ErrConfig, size.name, size.value, size.most)
		}
	}
	for _, x := range []float64{
		c.NormEps, c.InitializerRange, c.RopeTheta, c.LocalRopeTheta, c.QueryScalar, c.RopeScaling.Factor, c.RopeScaling.LowFreq,
		c.RopeScaling.HighFreq,
	} {
		if !finite(x) {
			return fmt.Errorf("%w: a number in it is %g", ErrConfig, x)
		}
	}
	rotary, options := family.Network == RotaryNetwork, family.options
	switch {
	case c.Heads%c.KVHeads != 0:
		return fmt.Errorf("%w: %d attention heads are no multiple of %d key-value heads", ErrConfig, c.Heads, c.KVHeads)
	case rotary && c.HeadDim%2 != 0:
		return fmt.Errorf("%w: the head size %d is odd, rotary embeddings need pairs", ErrConfig, c.HeadDim)
	case !rotary && (c.HeadDim*c.Heads != c.Hidden || c.KVHeads != c.Heads):
		return fmt.Errorf("%w: %s splits its width %d evenly among %d heads", ErrConfig, c.Family, c.Hidden, c.Heads)
	case c.SlidingWindow < 0 || c.SlidingWindow > maxPositions || (c.SlidingWindow > 0 && !options.windows):
		return fmt.Errorf("%w: sliding window %d in a %s model", ErrConfig, c.SlidingWindow, c.Family)
	case c.LocalLayers != nil && (len(c.LocalLayers) != c.Layers || c.SlidingWindow == 0 || !options.localLayers):
		return fmt.Errorf("%w: %d layers are marked as local or not in a %s model of %d layers with a sliding window of %d",
			ErrConfig, len(c.LocalLayers), c.Family, c.Layers, c.SlidingWindow)
	case !(c.NormEps > 0) || !(c.InitializerRange > 0) || (rotary && !(c.RopeTheta > 0)):
		return fmt.Errorf("%w: norm epsilon %g, initializer range %g and rope theta %g must be above 0",
			ErrConfig, c.NormEps, c.InitializerRange, c.RopeTheta)
	case family.LocalRope && !(c.LocalRopeTheta > 0), !family.LocalRope && c.LocalRopeTheta != 0:
		return fmt.Errorf("%w: rope theta %g of local layers in a %s model", ErrConfig, c.LocalRopeTheta, c.Family)
	case !(c.QueryScalar >= 0) || (c.QueryScalar > 0 && !options.queryScalar):
		return fmt.Errorf("%w: query_pre_attn_scalar %g in a %s model", ErrConfig, c.QueryScalar, c.Family)
	case c.AttentionBias && !options.attentionBias:
		return fmt.Errorf("%w: attention_bias in a %s model", ErrConfig, c.Family)
	case c.ForwardBias && !options.forwardBias:
		return fmt.Errorf("%w: mlp_bias in a %s model", ErrConfig, c.Family)
	case c.RopeScaling != RopeScaling{} && !rotary:
		return fmt.Errorf("%w: rotary embeddings in a %s model", ErrConfig, c.Family)
	}
	if err := c.RopeScaling.validate(); err != nil {
		return err
	}
	if n := c.parameters(); n > maxParameters {
		return fmt.Errorf("%w: these sizes make %.3g parameters", ErrConfig, n)
	}
	return nil
}

func (r RopeScaling) validate() error {
	good := false
	switch r.Kind {
	case "":
		good = r == RopeScaling{}
	case LinearRope:
		good = r.Factor > 0 && r == RopeScaling{Kind: LinearRope, Factor: r.Factor}
	case Llama3Rope:
		good = r.Factor > 0 && r.LowFreq > 0 && r.HighFreq > r.LowFreq && r.Original >= 1
	}
	if !good {
		return fmt.Errorf("%w: the scaling of rotary embeddings makes no sense: %+v", ErrConfig, r)
	}
	return nil
}

// parameters is the number of elements of all weights, of sizes that are within their bounds.
func (c Config) parameters() float64 {
	total := 0.0
	for _, w := range c.weights() {
		n := 1.0
		for _, d := range w.Shape {
			n *= float64(d)
		}
		total += n
	}
	return total
}

// maxConfig bounds how much of a config.json is read.
const maxConfig = 1 << 20

// ReadConfig reads config.json from a Hugging Face folder. Keys that do not change the numbers are ignored; a value
// that would change them and is not supported is refused. Errors wrap ErrConfig or fs.ErrNotExist.
func ReadConfig(folder fs.FS) (Config, error) {
	file, err := folder.Open("config.json")
	if errors.Is(err, fs.ErrNotExist) {
		return Config{}, fmt.Errorf("models: not the folder of a Hugging Face model: %w", err)
	}
	if err != nil {
		return Config{}, fmt.Errorf("models: read the model's configuration: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxConfig+1))
	if err != nil {
		return Config{}, fmt.Errorf("models: read the model's configuration: %w", err)
	}
	if len(data) > maxConfig {
		return Config{}, fmt.Errorf("%w: config.json has more than %d bytes: not a model's configuration", ErrConfig, maxConfig)
	}
	c, err := ParseConfig(data)
	if err != nil {
		return Config{}, fmt.Errorf("config.json: %w", err)
	}
	return c, nil
}

// configHead are the keys that say how the others are to be read.
type configHead struct {
	ModelType     string          `json:"model_type"`
	Architectures []string        `json:"architectures"`
	Quantization  json.RawMessage `json:"quantization_config"`
	Text          json.RawMessage `json:"text_config"`
}

// ParseConfig is ReadConfig for the bytes of a config.json.
func ParseConfig(data []byte) (Config, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return Config{}, fmt.Errorf("%w: the file is empty", ErrConfig)
	}
	var head configHead
	if err := json.Unmarshal(data, &head); err != nil {
		return Config{}, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	family, wrapped, err := lookup(head.ModelType)
	if err != nil {
		return Config{}, err
	}
	class := family.class
	if wrapped {
		class = family.wrapper.class
	}
	if len(head.Architectures) > 0 && !slices.Contains(head.Architectures, class) {
		return Config{}, fmt.Errorf("%w: architectures is %q, a language model of %s is %s",
			ErrConfig, head.Architectures, head.ModelType, class)
	}
	if isSet(head.Quantization) {
		return Config{}, fmt.Errorf("%w: quantization_config: quantised weights are not supported", ErrConfig)
	}
	var c Config
	if wrapped {
		c, err = family.wrapper.parse(family, head, data)
	} else {
		c, err = family.format.parse(family, data)
	}
	if err != nil {
		return Config{}, err
	}
	c = c.WithDefaults()
	return c, c.Validate()
}

// isSet tells whether a key is there and not null.
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
		Architectures: []string{c.family().class}, ModelType: c.Family, Vocab: c.Vocab,
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
	family := c.family()
	file, err := family.format.file(family, c)
	var data []byte
	if err == nil {
		data, err = json.MarshalIndent(file, "", "  ")
	}
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
