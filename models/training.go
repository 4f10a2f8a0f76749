package models

import "github.com/ldalign/ldalign/models/tensor"

// headBytes bounds the logits that exist at a time in training: 512 positions of a vocabulary of 49,152.
const headBytes = 96 << 20

// Compute says how training computes. It decides the last bits, time and memory.
type Compute struct {
	// BFloat16 runs forward and backward in bfloat16. Weights, their gradients, norms and log-probs stay as they are.
	BFloat16 bool
	// Recompute keeps nothing of a layer but its input, and runs the layer again on the way back, to equal bits.
	Recompute bool
}

// TrainLogProbs is the log-probability of each row's response, equation (1): log p(y|x) = Σ_j log p(y_j | x, y_<j) ->
// [len(rows)] Float32 (Float64 for a Float64 model); 0 for a row without one. It is for training: it computes a PackedBatch in which
// rows with the same prompt share it.
//
// A row without a prompt, a row that is too long for the model, or an id outside of its vocabulary makes the scope fail with
// ErrSequence.
func TrainLogProbs(s *tensor.Scope, m *Model, rows []Sequence, how Compute) *tensor.Tensor {
	b, err := m.PackBatch(rows, PackingOptions{Compute: how, Share: true})
	if err != nil {
		s.Fail(err)
		return s.Zeros(m.lossType()) // invalid, as everything in a failed scope
	}
	if len(b.Predictions) == 0 {
		return s.Zeros(m.lossType(), int64(len(rows)))
	}
	return b.Sums(s, b.LogProbs(s, b.Hidden(s, b.Embed(s), nil)))
}

// lossType is the type of log-probabilities.
func (m *Model) lossType() tensor.DType {
	if m.dtype == tensor.Float64 {
		return tensor.Float64
	}
	return tensor.Float32
}

// PackedTokens is how many positions TrainLogProbs computes for rows.
func PackedTokens(rows []Sequence) int {
	prompts := map[string]bool{}
	n := 0
	for _, row := range rows {
		if len(row.IDs) <= row.PromptLen {
			continue
		}
		if key := promptKey(row.IDs[:row.PromptLen]); !prompts[key] {
			prompts[key] = true
			n += row.PromptLen
		}
		n += len(row.IDs) - row.PromptLen - 1
	}
	return n
}

// training is what a pass whose gradients flow has besides.
type training struct {
	how     Compute
	kernels bool // Float32 on the CPU
}
