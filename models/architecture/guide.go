package architecture

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// The files of a guide's folder.
const (
	GuideConfigFile  = "guide.json"
	GuideWeightsFile = "guide.safetensors"
)

// How the encoder's hidden states become one vector.
const (
	PoolMean      = "mean"      // their mean over the response's tokens
	PoolLast      = "last"      // that of the response's last token
	PoolAttention = "attention" // their mean by softmax over the response of gelu(w·state), w learned from 0: a mean at first
)

// How the decoder gets the latent.
const (
	InjectPrefix    = "prefix"    // PrefixTokens input embeddings in front of the prompt
	InjectMemory    = "memory"    // one vector for each layer, both a key and its value (models.PackingOptions)
	InjectEmbedding = "embedding" // one vector, added to the embedding of every token
)

// How a row's reconstruction loss adds up.
const (
	ReduceMean = "mean" // mean over the response's tokens, so that rows of all lengths weigh the same
	ReduceSum  = "sum"  // sum, as equation (2) is written
)

// The names of the weights of a guide's two models begin with these.
const (
	GuideEncoderPrefix = "encoder."
	GuideDecoderPrefix = "decoder."
)

// The names of a guide's own weights. The latent is a linear layer, H of the encoder -> K; pooling is the w of
// PoolAttention; prefix is a linear layer K -> P·H of the decoder, memory one K -> Layers·KVHeads·D and embedding one K ->
// H, both without a bias; the hidden token, [H of the decoder], stands for a token that word dropout hides.
const (
	GuideLatent      = "latent"
	GuidePrefix      = "prefix"
	GuideMemory      = "memory.weight"
	GuideEmbedding   = "embedding.weight"
	GuidePooling     = "pooling.weight"
	GuideHiddenToken = "hidden_token"
)

// ErrGuide means a configuration that makes no guide.
var ErrGuide = errors.New("guide: config")

// GuideConfig describes how a guide's two models are joined.
type GuideConfig struct {
	LatentDim    int     `json:"latent_dim"`    // K
	Pooling      string  `json:"pooling"`       // PoolMean, PoolLast or PoolAttention
	Injection    string  `json:"injection"`     // InjectPrefix (also when empty), InjectMemory or InjectEmbedding
	PrefixTokens int     `json:"prefix_tokens"` // P, the positions of a soft prefix
	WordDropout  float64 `json:"word_dropout"`  // the rate at which response tokens are hidden from the decoder's input
	Reduction    string  `json:"reduction"`     // ReduceMean or ReduceSum
}

// Validate tells what is wrong. The error wraps ErrGuide.
func (c GuideConfig) Validate() error {
	injection := c.Injects()
	switch {
	case c.LatentDim < 1 || injection == InjectPrefix && c.PrefixTokens < 1:
		return fmt.Errorf("%w: latent_dim %d and prefix_tokens %d must be at least 1", ErrGuide, c.LatentDim, c.PrefixTokens)
	case c.Pooling != PoolMean && c.Pooling != PoolLast && c.Pooling != PoolAttention:
		return fmt.Errorf("%w: pooling %q is neither mean, last nor attention", ErrGuide, c.Pooling)
	case injection != InjectPrefix && injection != InjectMemory && injection != InjectEmbedding:
		return fmt.Errorf("%w: injection %q is neither prefix, memory nor embedding", ErrGuide, c.Injection)
	case c.Reduction != ReduceMean && c.Reduction != ReduceSum:
		return fmt.Errorf("%w: reduction %q is neither mean nor sum", ErrGuide, c.Reduction)
	case !(c.WordDropout >= 0 && c.WordDropout < 1):
		return fmt.Errorf("%w: word_dropout %g is not in [0, 1)", ErrGuide, c.WordDropout)
	}
	return nil
}

// Injects is Injection, with its default.
func (c GuideConfig) Injects() string {
	if c.Injection == "" {
		return InjectPrefix
	}
	return c.Injection
}

// Positions is how many of the decoder's positions the latent takes.
func (c GuideConfig) Positions() int {
	if c.Injects() == InjectPrefix {
		return c.PrefixTokens
	}
	return 0
}

// Guide describes a guiding model: an encoder and a decoder, which may be of different families, and how they are joined.
type Guide struct {
	Config           GuideConfig
	Encoder, Decoder Config
}

// PlanGuide describes the guide that a run spec makes for a policy. Encoder and decoder are named as in the spec: "policy"
// has the policy's configuration; "scratch:N" has N layers, like the policy's for the encoder and like the encoder's for the
// decoder; anything else is a Hugging Face folder. Errors name the key of the spec, guide.encoder or guide.decoder.
func PlanGuide(policy Config, encoder, decoder string, config GuideConfig) (g Guide, err error) {
	g.Config = config
	if g.Encoder, err = guidePart(encoder, policy, policy); err != nil {
		return g, fmt.Errorf("guide.encoder: %w", err)
	}
	if g.Decoder, err = guidePart(decoder, policy, g.Encoder); err != nil {
		return g, fmt.Errorf("guide.decoder: %w", err)
	}
	if err = g.Validate(); err != nil {
		err = fmt.Errorf("guide.encoder: %s with guide.decoder: %s: %w", encoder, decoder, err)
	}
	return g, err
}

func guidePart(from string, policy, like Config) (Config, error) {
	layers, scratch := strings.CutPrefix(from, "scratch:")
	switch {
	case scratch:
		n, err := strconv.Atoi(layers)
		if err != nil || n < 1 {
			return like, fmt.Errorf("%q: the number of layers must be at least 1", from)
		}
		like.Layers = n
		if like.LocalLayers != nil { // N layers do not have the pattern of local layers, so all attend to all positions
			like.SlidingWindow, like.LocalLayers = 0, nil
		}
		return like, nil
	case from == "policy":
		return policy, nil
	}
	config, err := ReadConfig(os.DirFS(from))
	if err != nil {
		return config, fmt.Errorf("%s: %w", from, err)
	}
	return config, nil
}

// Validate tells why models of these configurations make no guide. The error wraps ErrGuide.
func (g Guide) Validate() error {
	if err := g.Config.Validate(); err != nil {
		return err
	}
	switch {
	case g.Encoder.Vocab != g.Decoder.Vocab:
		return fmt.Errorf("%w: the encoder's vocabulary has %d tokens, the decoder's %d: they must read the same ids",
			ErrGuide, g.Encoder.Vocab, g.Decoder.Vocab)
	case g.Decoder.MaxLength() <= g.Config.Positions():
		return fmt.Errorf("%w: a prefix of %d leaves nothing of the decoder's %d positions",
			ErrGuide, g.Config.PrefixTokens, g.Decoder.MaxLength())
	}
	return nil
}

// MaxLength is the greatest number of tokens of prompt and response together that the guide takes.
func (g Guide) MaxLength() int {
	return min(g.Encoder.MaxLength(), g.Decoder.MaxLength()-g.Config.Positions())
}

// Own are the guide's own weights, beside those of its two models, in their order.
func (g Guide) Own() []Weight {
	k, width, states := int64(g.Config.LatentDim), int64(g.Decoder.Hidden), int64(g.Encoder.Hidden)
	list := []Weight{{Name: GuideLatent + ".weight", Shape: []int64{k, states}}, {Name: GuideLatent + ".bias", Shape: []int64{k}}}
	switch g.Config.Injects() {
	case InjectMemory:
		vectors := int64(g.Decoder.Layers * g.Decoder.KVHeads * g.Decoder.HeadDim)
		list = append(list, Weight{Name: GuideMemory, Shape: []int64{vectors, k}})
	case InjectEmbedding:
		list = append(list, Weight{Name: GuideEmbedding, Shape: []int64{width, k}})
	default:
		prefix := int64(g.Config.PrefixTokens) * width
		list = append(list, Weight{Name: GuidePrefix + ".weight", Shape: []int64{prefix, k}},
			Weight{Name: GuidePrefix + ".bias", Shape: []int64{prefix}})
	}
	if g.Config.Pooling == PoolAttention {
		list = append(list, Weight{Name: GuidePooling, Shape: []int64{states}})
	}
	if g.Config.WordDropout > 0 {
		list = append(list, Weight{Name: GuideHiddenToken, Shape: []int64{width}})
	}
	return list
}

// Parameters is how many numbers the weights of both models and the guide's own are.
func (g Guide) Parameters() int64 {
	return g.Encoder.Parameters() + g.Decoder.Parameters() + elements(g.Own())
}

// guideFile is guide.json: how the models are joined, and config.json of each.
type guideFile struct {
	Guide   GuideConfig     `json:"guide"`
	Encoder json.RawMessage `json:"encoder"`
	Decoder json.RawMessage `json:"decoder"`
}

// JSON is the guide's guide.json.
func (g Guide) JSON() ([]byte, error) {
	encoder, err := g.Encoder.JSON()
	if err != nil {
		return nil, err
	}
	decoder, err := g.Decoder.JSON()
	if err != nil {
		return nil, err
	}
	data, err := json.MarshalIndent(guideFile{Guide: g.Config, Encoder: encoder, Decoder: decoder}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("guide: write %s: %w", GuideConfigFile, err)
	}
	return append(data, '\n'), nil
}

// ReadGuide reads guide.json from a guide's folder. Errors wrap ErrGuide, ErrConfig or fs.ErrNotExist.
func ReadGuide(folder fs.FS) (Guide, error) {
	data, err := fs.ReadFile(folder, GuideConfigFile)
	if err != nil {
		return Guide{}, err
	}
	g, err := ParseGuide(data)
	if err != nil {
		return Guide{}, fmt.Errorf("%s: %w", GuideConfigFile, err)
	}
	return g, nil
}

// ParseGuide is ReadGuide for the bytes of a guide.json.
func ParseGuide(data []byte) (g Guide, err error) {
	var file guideFile
	parser := json.NewDecoder(bytes.NewReader(data))
	parser.DisallowUnknownFields()
	if err := parser.Decode(&file); err != nil {
		return g, fmt.Errorf("%w: %w", ErrGuide, err)
	}
	if g.Encoder, err = ParseConfig(file.Encoder); err != nil {
		return g, fmt.Errorf("encoder: %w", err)
	}
	if g.Decoder, err = ParseConfig(file.Decoder); err != nil {
		return g, fmt.Errorf("decoder: %w", err)
	}
	g.Config = file.Guide
	return g, g.Validate()
}
