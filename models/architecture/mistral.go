package architecture

import "fmt"

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

// slidingWindow are the keys of a family whose layers all have the same window.
func (c Config) slidingWindow() windowKeys {
	if c.SlidingWindow == 0 {
		return windowKeys{Window: null}
	}
	return windowKeys{Window: fmt.Appendf(nil, "%d", c.SlidingWindow)}
}
