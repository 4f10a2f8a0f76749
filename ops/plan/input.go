package plan

import (
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer/objective"
)

// Input is what a Planner knows about a run before it begins.
type Input struct {
	// Spec is the run's resolved spec.
	Spec   schemas.Spec
	Limits streams.Limits
	Train  Data
	// Held describes data.eval; zero without one.
	Held   Data
	Policy Model
	// Guide is zero if the run's objective needs none.
	Guide Guide
	// Earlier is the speed of an earlier, comparable run; nil if there is none.
	Earlier *Rate
}

// Data describes a set of records, without those that were dropped.
type Data struct {
	// Report says what was read and dropped.
	Report  string
	Records int
	// Bytes is the size of all texts.
	Bytes int64
	// The following are means over a sample of the records. Tokens are counted after the length rule.
	IDBytes, PromptBytes, ChosenBytes, RejectedBytes float64
	PromptTokens, ChosenTokens, RejectedTokens       float64
	// Estimated says that the tokens are estimated from bytes, because no tokenizer could read the texts.
	Estimated bool
	// Refused is the share of records that the length rule or the template refuses. They become dead letters.
	Refused float64
}

// Model is a language model as a run uses it.
type Model struct {
	architecture.Config
	// Adapter is the number of parameters in training.lora's matrices; 0 without it.
	Adapter int64
	// Cache is the number of bytes of keys and values for generation.slots rows of the longest prompt and response.
	Cache int64
}

// Guide describes the size of a guide.
type Guide struct {
	// Parameters is the number of parameters of encoder, decoder and the layers that join them.
	Parameters int64
	// Trained is the guide that this run trains; nil if it uses another run's.
	Trained *architecture.Guide
}

// encodes returns the number of parameters that are needed for encoding: the encoder's or, as an upper bound for another run's
// guide, all.
func (g Guide) encodes() int64 {
	if g.Trained != nil {
		return g.Trained.Encoder.Parameters()
	}
	return g.Parameters
}

// reads returns the kind of message that the trainer reads.
func (in Input) reads() schemas.Kind { return objective.TrainsFrom(in.Spec.Objective.Kind) }

// Rate is the training speed of an earlier run of the same size.
type Rate struct {
	Run             string
	TokensPerSecond float64
}

// Machine describes the machine on which the run will work. A value of 0 means unknown, and is not checked against the plan.
type Machine struct {
	// Memory is the machine's memory in bytes.
	Memory int64
	// Devices has the free memory of the machine's other devices in bytes, by the name that compute.device has for them.
	Devices map[string]int64
	// Folder is the data folder, and Free the number of free bytes on its disk.
	Folder string
	Free   int64
	// Cache is the size limit of the downloaded checkpoints, in bytes.
	Cache int64
}
