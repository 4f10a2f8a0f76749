package architecture

// family is what is known about a family.
type family struct {
	name  string // model_type in config.json, and Config.Family
	class string // the class that transformers opens for it
	Traits
	// options are the settings that a configuration may have beside those of all families.
	options options
	format  format
	weights func(c Config, t Traits) []Weight
	// rename gives the name in today's files of a tensor in a file, "" for a tensor that is no weight; nil changes no name.
	rename func(name string) string
	// wrapper is a model that contains one of this family; nil for none.
	wrapper *wrapper
}

// Network says which computation a family has.
type Network int

// The computations.
const (
	RotaryNetwork Network = iota // Llama's: RMSNorm, rotary positions, gated feed-forward layers
	GPT2Network                  // GPT-2's: LayerNorm, learned positions, biases everywhere
)

// Traits are what a family computes, beside the sizes and settings of a Config. Those after Network are of RotaryNetwork: what
// is not set is as in Llama.
type Traits struct {
	Network Network
	// QueryKeyValueBias says that the projections to query, key and value always have biases.
	QueryKeyValueBias bool
	// HeadNorms says that the heads of query and key are normalised.
	HeadNorms bool
	// OutputNorms says that the outputs of attention and of feed-forward layers are normalised, too.
	OutputNorms bool
	// NormOffset is added to the weights of norms: Gemma stores them around 0.
	NormOffset float64
	// ScaledEmbeddings says that token embeddings are multiplied by √Hidden.
	ScaledEmbeddings bool
	// GELU says that feed-forward layers are gated by GELU, in its form by tanh, instead of SiLU.
	GELU bool
	// LocalRope says that local layers have a rotary embedding of their own, see Config.LocalRopeTheta.
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

// format reads and writes config.json of a family.
type format interface {
	// parse gives a Config whose defaults need not be filled in.
	parse(f family, data []byte) (Config, error)
	// file is the content of config.json, for encoding/json.
	file(f family, c Config) (any, error)
}

// wrapper is a model_type whose configuration contains that of a language model.
type wrapper struct {
	name, class string
	parse       func(f family, head configHead, data []byte) (Config, error)
}
