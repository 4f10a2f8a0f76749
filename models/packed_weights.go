package models

import (
	"errors"

	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/tensor"
)

// ErrPacked means an operation that needs plain weights, on a packed model.
var ErrPacked = errors.New("the model is packed: it only computes by token, for decoding and log-probabilities")

func packable(eng *tensor.Engine, dtype tensor.DType) bool {
	return eng.Device() == tensor.CPU && dtype == tensor.Float32
}

// readPacked packs the weight w as it lies in src.
func readPacked(s *tensor.Scope, src WeightSource, name string, w architecture.Weight) (*tensor.Packed, error) {
	var p *tensor.Packed
	err := withData(s, src, name, w.Shape, func(dtype tensor.DType, data []byte) {
		p = s.PackBytes(dtype, data, w.Shape[0], w.Shape[1], w.InFirst)
	})
	return p, err
}
