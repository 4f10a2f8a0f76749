package models

import "github.com/ldalign/ldalign/models/safetensors"

// Parameters is how many numbers the weights are. A tied head is not counted twice.
func (c Config) Parameters() int64 {
	var n int64
	for _, w := range weights(c.WithDefaults()) {
		n += count(w.shape)
	}
	return n
}

// PackedBytes is the memory of the weights of src in a packed model: bfloat16 matrices stay as they are, all else is
// Float32. The error is that of Fits.
func (c Config) PackedBytes(src Source) (int64, error) {
	names, err := match(c, src)
	if err != nil {
		return 0, err
	}
	types := map[string]safetensors.DType{}
	for _, info := range src.Tensors() {
		types[info.Name] = info.DType
	}
	var n int64
	for _, w := range weights(c) {
		size := int64(4)
		if packs(c, w) && types[names[w.name]] == safetensors.BF16 {
			size = 2
		}
		n += size * count(w.shape)
	}
	return n, nil
}

// Parameters is how many numbers the adapter has on a model of this configuration. The error is that of Fits.
func (l LoRA) Parameters(c Config) (int64, error) {
	layers, err := l.plan(c)
	if err != nil {
		return 0, err
	}
	var n int64
	for _, w := range matricesOf(layers) {
		n += count(w.shape)
	}
	return n, nil
}

func count(shape []int64) int64 {
	n := int64(1)
	for _, size := range shape {
		n *= size
	}
	return n
}
