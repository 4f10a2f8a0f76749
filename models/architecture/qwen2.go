package architecture

// Qwen2 is Llama with biases at query, key and value. The layers from max_window_layers on may be local.
const Qwen2 = "qwen2"

func qwen2() family {
	return family{
		name: Qwen2, class: "Qwen2ForCausalLM",
		Traits:  Traits{QueryKeyValueBias: true},
		options: options{windows: true, localLayers: true},
		weights: rotaryWeights,
		format:  rotaryFormat{windowed: qwenWindowed, local: qwenLocal, windowKeys: Config.qwenWindow},
	}
}

// qwenWindowed tells whether a file of the Qwen families turns on sliding_window.
func qwenWindowed(f windowKeys) bool { return or(f.UseWindow, false) }

// qwenLocal tells whether a layer is local, if there are no layer_types.
func qwenLocal(f windowKeys, window, layer int) (bool, error) {
	return window > 0 && layer >= or(f.MaxWindowLayers, 28), nil
}

// qwenWindow are the keys of the Qwen families.
func (c Config) qwenWindow() windowKeys {
	f, windowed, first := c.slidingWindow(), c.SlidingWindow > 0, c.Layers
	for i := c.Layers - 1; i >= 0; i-- {
		if c.Local(i) {
			first = i
		}
	}
	f.UseWindow, f.MaxWindowLayers, f.Types = &windowed, &first, c.layerTypes()
	return f
}
