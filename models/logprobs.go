package models

import "github.com/ldalign/ldalign/models/tensor"

// headRows is how many positions go through the output head together: [headRows, V] bounds the memory, and one fixed
// number keeps the result of a position independent of how many others there are.
const headRows = 64

// LogProbs is the log-probability of each response, equation (1): log p(y|x) = Σ_j log p(y_j | x, y_<j) -> [pad.Rows]
// Float32; 0 for rows that pad adds. Gradients flow to the model's weights unless the scope records none. A batch that
// does not fit pad makes the scope fail.
func LogProbs(s *tensor.Scope, m *Model, rows []Sequence, pad PadRule) *tensor.Tensor {
	return TokenLogProbs(s, m, rows, pad).SumDims(false, 1)
}

// TokenLogProbs is log p(token | all before) of every response token, in its own column -> [pad.Rows, pad.Length]
// Float32; 0 elsewhere.
func TokenLogProbs(s *tensor.Scope, m *Model, rows []Sequence, pad PadRule) *tensor.Tensor {
	ids, err := pad.Pad(rows)
	if err != nil {
		s.Fail(err)
		return s.Zeros(tensor.Float32) // invalid, as everything in a failed scope
	}
	h := m.Hidden(s, m.Embed(s, s.FromInt64(ids, int64(pad.Rows), int64(pad.Length))))
	return m.responseLogProbs(s, h, rows)
}

// responseLogProbs spreads log softmax of the logits over the responses' columns: h [R, T, H] -> [R, T].
func (m *Model) responseLogProbs(s *tensor.Scope, h *tensor.Tensor, rows []Sequence) *tensor.Tensor {
	count, length, width := h.Size(0), h.Size(1), h.Size(2)
	var predicting, targets, columns []int64
	for i, row := range rows {
		for t, id := range row.Response() {
			at := int64(i)*length + int64(row.PromptLen+t)
			predicting = append(predicting, at-1)
			targets = append(targets, id)
			columns = append(columns, at)
		}
	}
	out := s.Zeros(m.lossType(), count*length)
	if len(targets) > 0 {
		logp := m.tokenLogProbs(s, h.Reshape(-1, width), predicting, targets)
		out = out.Scatter(0, s.FromInt64(columns, int64(len(columns))), logp)
	}
	return out.Reshape(count, length)
}

// tokenLogProbs is log softmax(logits at row at[i] of h)[targets[i]] -> [len(at)], headRows positions at a time.
func (m *Model) tokenLogProbs(s *tensor.Scope, h *tensor.Tensor, at, targets []int64) *tensor.Tensor {
	n := len(at)
	padded := (n + headRows - 1) / headRows * headRows
	at = append(at, make([]int64, padded-n)...)
	targets = append(targets, make([]int64, padded-n)...)
	var parts []*tensor.Tensor
	for i := 0; i < padded; i += headRows {
		parts = append(parts, s.Result(func(s *tensor.Scope) *tensor.Tensor {
			picked := h.IndexSelect(0, s.FromInt64(at[i:i+headRows], headRows))
			logp := m.Logits(s, picked).To(m.lossType()).LogSoftmax(-1)
			return logp.Gather(1, s.FromInt64(targets[i:i+headRows], headRows, 1))
		}))
	}
	return s.Cat(0, parts...).Reshape(int64(padded)).Narrow(0, 0, int64(n))
}
