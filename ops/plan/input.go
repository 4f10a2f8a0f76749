package plan

import (
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
)

// Input is what is known of a run before it begins.
type Input struct {
	// Spec is resolved.
	Spec   schemas.Spec
	Limits streams.Limits
	// Reads is the kind of message that the trainer reads.
	Reads schemas.Kind
	Train Data
	// Held is of data.eval; zero without one.
	Held   Data
	Policy Model
	// Guide is zero where the run's objective needs none.
	Guide Guide
	// Steps is the number of optimizer steps that so many examples make.
	Steps func(examples, batch, epochs int) int
	// Earlier is nil where no earlier run tells how fast this one will be.
	Earlier *Rate
}

// Data is a set of records after drops.
type Data struct {
	// Report says what was read and dropped.
	Report  string
	Records int
	// Bytes of all texts.
	Bytes int64
	// The rest are means over (a sample of) the records, tokens after the length rule.
	IDBytes, PromptBytes, ChosenBytes, RejectedBytes float64
	PromptTokens, ChosenTokens, RejectedTokens       float64
	// Refused is the share that the length rule or the template refuses: dead letters.
	Refused float64
}

// Model is a language model's sizes.
type Model struct {
	// Parameters of all weights; Adapter of training.lora's matrices, 0 without it.
	Parameters, Adapter int64
	// Cache is the bytes of keys and values for generation.slots rows of the longest prompt and response.
	Cache                                                          int64
	Vocabulary, Hidden, Layers, Heads, KVHeads, HeadDim, FeedInner int64
}

// Guide is a guide's sizes.
type Guide struct {
	// Parameters of encoder, decoder and what joins them.
	Parameters int64
	// Encoder and Decoder are set where this run trains the guide.
	Encoder, Decoder Model
}

// encodes is the number of parameters that encoding takes: the encoder's, or no more than all where it is another run's guide.
func (g Guide) encodes() int64 {
	if g.Encoder.Parameters > 0 {
		return g.Encoder.Parameters
	}
	return g.Parameters
}

// Rate is how fast an earlier run of the same size trained.
type Rate struct {
	Run             string
	TokensPerSecond float64
}

// Machine is where the run will work. What is not known is 0, and nothing is judged by it.
type Machine struct {
	// Memory is all of it, in bytes.
	Memory int64
	// Folder is the data folder, and Free the bytes that its disk has left.
	Folder string
	Free   int64
	// Cache is the most bytes that downloaded checkpoints may take.
	Cache int64
}
