package architecture

// family describes a family.
type family struct {
	name  string // model_type in config.json, and Config.Family
	class string // the class that transformers opens for it
	Traits
	// options are the settings that a configuration may have in addition to those of all families.
	options options
	format  format
	weights func(c Config, t Traits) []Weight
	// rename gives the current name of a tensor in a file, or "" for a tensor that is no weight; nil changes no name.
	rename func(name string) string
	// wrapper is a kind of model that contains one of this family; nil for none.
	wrapper *wrapper
}

// Network is a computation that families share.
type Network int

// The networks.
const (
	RotaryNetwork Network = iota // Llama's: RMSNorm, rotary positions, gated feed-forward layers
	GPT2Network                  // GPT-2's: LayerNorm, learned positions, biases everywhere
)

// Traits are what a family computes, apart from the sizes and settings in a Config. All but Network concern RotaryNetwork;
// their zero values are Llama's.
type Traits struct {
	Network Network
	// QueryKeyValueBias says that the projections to query, key and value always have biases.
	QueryKeyValueBias bool
	// HeadNorms says that the heads of query and key are normalised.
	HeadNorms bool
	// OutputNorms says that the outputs of attention and of feed-forward layers are normalised as well.
	OutputNorms bool
	// NormOffset is added to the weights of norms: Gemma stores them around 0.
	NormOffset float64
	// ScaledEmbeddings says that token embeddings are multiplied by √Hidden.
	ScaledEmbeddings bool
	// GELU says that feed-forward layers are gated by GELU, in its form by tanh, instead of SiLU.
	GELU bool
	// LocalRope says that local layers have their own rotary embedding, see Config.LocalRopeTheta.
	LocalRope bool
}

// options are the settings of a Config that not every family has.
type options struct {
	windows       bool // SlidingWindow
	localLayers   bool // LocalLayers: some layers are local, others are not
	attentionBias bool
	forwardBias   bool
	queryScalar   bool
}

// format reads and writes a family's config.json.
type format interface {
	// parse reads a Config. It need not fill in defaults.
	parse(f family, data []byte) (Config, error)
	// file is the content of config.json, for encoding/json.
	file(f family, c Config) (any, error)
}

// wrapper is a model_type whose configuration contains that of a language model.
type wrapper struct {
	name, class string
	parse       func(f family, head configHead, data []byte) (Config, error)
}
