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

// readPacked packs the weight w as it lies in src, or rounded to bfloat16.
func readPacked(s *tensor.Scope, src WeightSource, name string, w architecture.Weight, rounded bool) (*tensor.Packed, error) {
	var p *tensor.Packed
	err := withData(s, src, name, w.Shape, func(dtype tensor.DType, data []byte) {
		if !rounded || dtype == tensor.BFloat16 {
			p = s.PackBytes(dtype, data, w.Shape[0], w.Shape[1], w.InFirst)
			return
		}
		matrix := s.FromBytes(dtype, data, w.Shape...).To(tensor.BFloat16)
		if w.InFirst {
			matrix = matrix.Transpose(0, 1)
		}
		p = matrix.Pack()
	})
	return p, err
}
