package architecture

import "github.com/ldalign/ldalign/models/safetensors"

// CacheSize is the size of a cache of keys and values.
type CacheSize struct {
	Slots  int // rows at the same time
	Length int // positions of a row
	Burst  int // tokens of one row in one step, at most
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
	// Two slots more: one for the tokens that fill up a step, one that the kernels read a little of.
	return numbers * int64(size.Slots+2) * int64(c.KVHeads) * dtype.Size()
}
