package models

import "github.com/ldalign/ldalign/models/tensor"

// TrainLogProbs is the log-probability of each row's response, equation (1): log p(y|x) = Σ_j log p(y_j | x, y_<j) ->
// [len(rows)] Float32 (Float64 for a Float64 model); 0 for a row without one. It is for training: it computes a PackedBatch
// in which rows with the same prompt share it.
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
