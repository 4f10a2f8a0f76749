package architecture

// Mistral is Llama with a sliding window in every layer, and without biases.
const Mistral = "mistral"

func mistral() family {
	return family{
		name: Mistral, class: "MistralForCausalLM",
		options: options{windows: true},
		weights: rotaryWeights,
		format: rotaryFormat{
			defaults:   func(f *rotaryFile) { f.MaxPositions = 131072 },
			noBiasKey:  true,
			windowed:   func(windowKeys) bool { return true },
			local:      func(_ windowKeys, window, _ int) (bool, error) { return window > 0, nil },
			windowKeys: Config.slidingWindow,
		},
	}
}
