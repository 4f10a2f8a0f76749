package architecture

import "github.com/ldalign/ldalign/models/safetensors"

// Prefill is how many tokens of a prompt the decoder computes in one step unless told otherwise.
const Prefill = 256

// CacheSize is the size of a cache of keys and values.
type CacheSize struct {
	Slots  int // the most rows at the same time
	Length int // the most positions of a row
	Burst  int // the most tokens of one row in one step
}

// Columns is how many positions a layer of the configuration holds for each row.
func (o CacheSize) Columns(c Config, layer int) int {
	if w := c.Window(layer); w > 0 {
		return min(o.Length, w+o.Burst-1)
	}
	return o.Length
}

// The kernels read and write whole vectors, so a cache's columns and the width of its values are rounded up to these.
const (
	cacheColumns = 32
	cacheWidth   = 8
)

// CacheBytes is the memory of a cache of a model that computes in dtype.
func (c Config) CacheBytes(dtype safetensors.DType, size CacheSize) int64 {
	up := func(n, step int) int64 { return int64((n + step - 1) / step * step) }
	var numbers int64
	for layer := range c.Layers {
		numbers += up(size.Columns(c, layer), cacheColumns) * (int64(c.HeadDim) + up(c.HeadDim, cacheWidth))
	}
	// Two more slots: one for the tokens that fill up a step, one because the kernels read a little past the last slot.
	return numbers * int64(size.Slots+2) * int64(c.KVHeads) * dtype.Size()
}
