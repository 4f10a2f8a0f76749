package models

import (
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/tensor"
)

// The plain form computes one whole sequence after the other by libtorch's operations and its autograd, as the papers write
// it. Only tests call it: those of this package and of the packages above compare with it what the program computes by
// token, packed or in training.

// LogProbs is the log-probability of each row's response, equation (1): log p(y|x) = Σ_j log p(y_j | x, y_<j) -> [len(rows)]
// Float32 (Float64 for a Float64 model). Gradients flow to the model's weights unless the scope records none. A row that the
// model does not take makes the scope fail with ErrSequence.
func LogProbs(s *tensor.Scope, m *Model, rows []Sequence) *tensor.Tensor {
	sums := make([]*tensor.Tensor, len(rows))
	for i, row := range rows {
		sums[i] = TokenLogProbs(s, m, row).Sum()
	}
	return s.Stack(0, sums...)
}

// TokenLogProbs is log p(token | all before) of every token of a row's response -> [len(row.Response())].
func TokenLogProbs(s *tensor.Scope, m *Model, row Sequence) *tensor.Tensor {
	s.Fail(m.Takes(row))
	n := int64(len(row.Response()))
	if n == 0 || s.Err() != nil {
		return s.Zeros(m.lossType(), 0)
	}
	h := m.Hidden(s, m.Embed(s.FromInt64(row.IDs, 1, int64(len(row.IDs))))).Squeeze(0)
	logp := m.Logits(h.Narrow(0, int64(row.PromptLen)-1, n)).To(m.lossType()).LogSoftmax(-1)
	return logp.Gather(1, s.FromInt64(row.Response(), n, 1)).Squeeze(1)
}

// Embed looks up the tokens' embeddings: ids Int64 [B, T] -> [B, T, H]. Hidden adds what depends on their positions.
func (m *Model) Embed(ids *tensor.Tensor) *tensor.Tensor { return m.net.embed(ids, pass{}) }

// Hidden runs the layers and the final norm: emb [B, T, H] -> [B, T, H]. Position t sees positions up to t.
func (m *Model) Hidden(s *tensor.Scope, emb *tensor.Tensor) *tensor.Tensor {
	return m.hidden(s, emb, causal(m.cfg))
}

func (m *Model) hidden(s *tensor.Scope, emb *tensor.Tensor, attend attention) *tensor.Tensor {
	m.net.reach(s, int(emb.Size(1)))
	emb = emb.Reshape(emb.Size(0), emb.Size(1), emb.Size(2)) // a pass frees its input, and emb is the caller's
	return m.net.hidden(emb, pass{scope: s, attend: attend, adapted: m.adapter.byWeight()})
}

// Logits are those of the next token: h [N, H] -> [N, V].
func (m *Model) Logits(h *tensor.Tensor) *tensor.Tensor { return m.tokenLogits(h) }

// causal is attention within whole sequences: each position attends to itself and those before it, in a local layer within
// the window only.
func causal(c architecture.Config) attention {
	return func(s *tensor.Scope, layer int, q, k, v *tensor.Tensor) *tensor.Tensor {
		if group := q.Size(1) / max(k.Size(1), 1); group > 1 { // each key-value head serves consecutive query heads
			k, v = k.RepeatInterleave(group, 1), v.RepeatInterleave(group, 1)
		}
		var mask *tensor.Tensor
		if window, n := int64(c.Window(layer)), q.Size(2); window > 0 && window < n {
			mask = s.Ones(tensor.Float32, n, n).Tril(0).Triu(1 - window).To(tensor.Bool)
		}
		return tensor.SDPA(q, k, v, mask, mask == nil, c.AttentionScale())
	}
}
