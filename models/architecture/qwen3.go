package architecture

// Qwen3 is Llama with norms of the heads of query and key, and the local layers of Qwen2.
const Qwen3 = "qwen3"

func qwen3() family {
	return family{
		name: Qwen3, class: "Qwen3ForCausalLM",
		Traits:  Traits{HeadNorms: true},
		options: options{windows: true, localLayers: true, attentionBias: true},
		weights: rotaryWeights,
		format: rotaryFormat{
			defaults: func(f *rotaryFile) { f.HeadDim = 128 },
			windowed: qwenWindowed, local: qwenLocal, windowKeys: Config.qwenWindow,
		},
	}
}
