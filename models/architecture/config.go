package architecture

import (
	"errors"
	"fmt"
	"math"
)

// ErrConfig means a config.json that cannot be read, contradicts itself, or needs a computation that is not supported.
var ErrConfig = errors.New("models: config")

// Config describes a language model of any family.
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
	// SlidingWindow is how many positions a local layer attends to, including the token's own; 0 if there are no local
	// layers. Llama and GPT-2 have none.
	SlidingWindow int
	// LocalLayers says of each layer whether it is local. nil means that all are, if there is a SlidingWindow.
	LocalLayers []bool
	// NormEps is the epsilon of RMSNorm or LayerNorm. 0 means 1e-5.
	NormEps float64
	// RopeTheta is the base of the rotary embedding's wavelengths. 0 means 10000. GPT-2 has none.
	RopeTheta float64
	// RopeScaling stretches the wavelengths.
	RopeScaling RopeScaling
	// LocalRopeTheta is the RopeTheta of Gemma 3's local layers, whose wavelengths are not stretched. 0 means 10000.
	LocalRopeTheta float64
	// QueryScalar is the number whose square root divides Gemma 3's attention scores. 0 means HeadDim, as in other families.
	QueryScalar float64
	// AttentionBias says that all projections of attention have biases. Those of query, key and value always have in Qwen2.
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
	LinearRope = "linear" // stretches all wavelengths
	Llama3Rope = "llama3" // stretches long wavelengths
)

// RopeScaling stretches the wavelengths of the rotary embedding, so that a model works beyond the positions that it was
// first trained on.
type RopeScaling struct {
	Kind   string  // "" (none), LinearRope or Llama3Rope
	Factor float64 // of the stretched wavelengths
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

// The greatest sizes that a configuration may have: larger than those of any model, and small enough that listing the
// weights costs nothing.
const (
	maxLayers     = 1 << 12
	maxSize       = 1 << 24
	maxPositions  = 1 << 31
	maxParameters = 1e13
)

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
