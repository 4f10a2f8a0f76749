package architecture

// Llama is the family of Llama 1 to 3.
const Llama = "llama"

func llama() family {
	return family{
		name: Llama, class: "LlamaForCausalLM",
		options: options{attentionBias: true, forwardBias: true},
		weights: rotaryWeights,
		format: rotaryFormat{
			defaults:        func(f *rotaryFile) { f.MaxPositions = 2048 },
			optionalKVHeads: true,
		},
	}
}
