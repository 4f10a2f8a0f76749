package models

import (
	"context"
	"errors"
	"fmt"

	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/tensor"
)

// ErrPacked says that a packed model was asked for what only a model with plain weights does.
var ErrPacked = errors.New("the model is packed: it computes by token, for decoding and log-probabilities, and nothing else")

// Packed tells whether the weights are laid out for by-token inference: several times as fast as plain weights for the
// few tokens of a decoding step, exact to the last bit whatever is computed beside (see Cache), and in half the memory
// where the file holds bfloat16. A packed model has no plain weights: it cannot be trained, cloned or written, and
// does not compute whole sequences. Only Float32 on the CPU is ever packed; elsewhere Options.Packed changes nothing.
func (m *Model) Packed() bool { return m.packed != nil }

// Pack makes a packed model of one with plain weights, which are freed one by one.
func (m *Model) Pack(ctx context.Context) error {
	if m.packed != nil || !packable(m.eng, m.dtype) {
		return nil
	}
	if m.adapter != nil {
		return fmt.Errorf("models: pack: %w", errUnmerged)
	}
	return m.eng.Do(ctx, func(*tensor.Scope) error {
		m.packed = make(map[*tensor.Tensor]*tensor.Packed)
		for i, w := range m.cfg.Weights() {
			m.pack(w, m.params[i].Tensor)
		}
		return nil
	})
}

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

// pack packs the weight w, whose values t holds, and frees t, which stays what the network names the weight by.
func (m *Model) pack(w architecture.Weight, t *tensor.Tensor) {
	if !w.Multiplied() {
		return
	}
	matrix := t
	if w.InFirst {
		matrix = t.Transpose(0, 1)
	}
	m.packed[t] = matrix.Pack().Keep()
	t.Free()
}
