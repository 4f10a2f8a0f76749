package plan

import (
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer/objective"
)

// Input is what is known of a run before it begins.
type Input struct {
	// Spec is resolved.
	Spec   schemas.Spec
	Limits streams.Limits
	Train  Data
	// Held is of data.eval; zero without one.
	Held   Data
	Policy Model
	// Guide is zero where the run's objective needs none.
	Guide Guide
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
	// Estimated says that the tokens are estimated from bytes, because no tokenizer could read the texts.
	Estimated bool
	// Refused is the share that the length rule or the template refuses: dead letters.
	Refused float64
}

// Model is a language model as a run uses it.
type Model struct {
	architecture.Config
	// Adapter is the parameters of training.lora's matrices, 0 without it.
	Adapter int64
	// Cache is the bytes of keys and values for generation.slots rows of the longest prompt and response.
	Cache int64
}

// Guide is a guide's sizes.
type Guide struct {
	// Parameters of encoder, decoder and what joins them.
	Parameters int64
	// Trained is the guide that this run trains; nil where it takes another run's.
	Trained *architecture.Guide
}

// encodes is the number of parameters that encoding takes: the encoder's, or no more than all where it is another run's guide.
func (g Guide) encodes() int64 {
	if g.Trained != nil {
		return g.Trained.Encoder.Parameters()
	}
	return g.Parameters
}

// reads is the kind of message that the trainer reads.
func (in Input) reads() schemas.Kind { return objective.TrainsFrom(in.Spec.Objective.Kind) }

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
