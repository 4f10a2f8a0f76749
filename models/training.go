package models

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/ldalign/ldalign/models/tensor"
)

// headBytes bounds the logits that exist at a time in training: 512 positions of a vocabulary of 49,152.
const headBytes = 96 << 20

// Compute says how training computes. It decides the last bits, time and memory.
type Compute struct {
	// BFloat16 runs forward and backward in bfloat16. Weights, their gradients, norms and log-probs stay as they are.
	BFloat16 bool
	// Recompute keeps nothing of a layer but its input, and runs the layer again on the way back, to equal bits.
	Recompute bool
}

// TrainLogProbs is what LogProbs is, the log-probability of each response -> [len(rows)] Float32 (Float64 for a Float64
// model), for training: nothing is padded, rows with the same prompt share its computation, and logits exist only where a
// response token is predicted, a bounded part at a time. What a row gets in its last bits depends on the other rows and
// their order. Gradients are added to the weights by Backward, see tensor.TrainLinear.
//
// A row without a prompt, one longer than the model takes or an id outside of its vocabulary makes the scope fail with
// ErrSequence.
func TrainLogProbs(s *tensor.Scope, m *Model, rows []Sequence, how Compute) *tensor.Tensor {
	m.whole(s)
	dtype := tensor.Float32
	if m.dtype == tensor.Float64 {
		dtype = tensor.Float64
	}
	f, err := m.flatten(rows)
	if err != nil {
		s.Fail(err)
		return s.Zeros(dtype) // invalid, as everything in a failed scope
	}
	if len(f.targets) == 0 {
		return s.Zeros(dtype, int64(len(rows)))
	}
	m.net.reach(s, int(slices.Max(f.positions))+1)
	p := m.trainingPass(s, f, how)
	x := m.net.embed(s.FromInt64(f.ids, int64(len(f.ids)), 1), p)
	h := m.net.hidden(x, p).Reshape(int64(len(f.ids)), int64(m.cfg.Hidden))
	logp := m.trainHead(s, h, f.predicting, f.targets, dtype)
	sums := s.Zeros(tensor.Float64, int64(len(rows)))
	return sums.IndexAdd(0, s.FromInt64(f.row, int64(len(f.row))), logp.To(tensor.Float64)).To(dtype)
}

// trainHead is tokenLogProbs whose gradients flow: logits exist a bounded part at a time, unless the head has an adapter.
func (m *Model) trainHead(s *tensor.Scope, h *tensor.Tensor, at, targets []int64, dtype tensor.DType) *tensor.Tensor {
	n := int64(len(at))
	h, target := h.IndexSelect(0, s.FromInt64(at, n)), s.FromInt64(targets, n)
	if m.adapter.byWeight()[m.net.head()] != nil {
		return m.tokenLogits(s, h).To(dtype).LogSoftmax(-1).Gather(1, target.Unsqueeze(1)).Squeeze(1)
	}
	return h.TrainLogProbs(m.net.head(), target, max(16, headBytes/(4*m.cfg.Vocab)))
}

// flat is rows laid out for training: a prompt once, then the responses to it, each without its last token, which predicts
// nothing.
type flat struct {
	ids, positions []int64
	spans          []tensor.Span
	// predicting are the places behind which a response token stands, targets those tokens, row whose they are.
	predicting, targets, row []int64
}

func (m *Model) flatten(rows []Sequence) (*flat, error) {
	f := &flat{}
	shared := map[string][]int{} // rows by prompt
	var keys []string            // in order of appearance
	for i, row := range rows {
		if row.PromptLen < 1 || row.PromptLen > len(row.IDs) || len(row.IDs) > m.cfg.MaxLength() {
			return nil, fmt.Errorf("%w: row %d has %d tokens, %d of them prompt: want a prompt and at most %d tokens",
				ErrSequence, i, len(row.IDs), row.PromptLen, m.cfg.MaxLength())
		}
		for _, id := range row.IDs {
			if id < 0 || id >= int64(m.cfg.Vocab) {
				return nil, fmt.Errorf("%w: row %d: token %d is not in the vocabulary of %d", ErrSequence, i, id, m.cfg.Vocab)
			}
		}
		if len(row.IDs) == row.PromptLen {
			continue // its log-probability is 0
		}
		key := promptKey(row.IDs[:row.PromptLen])
		if shared[key] == nil {
			keys = append(keys, key)
		}
		shared[key] = append(shared[key], i)
	}
	for _, key := range keys {
		f.add(rows, shared[key])
	}
	return f, nil
}

// add lays out rows that have one prompt.
func (f *flat) add(rows []Sequence, same []int) {
	start, length := len(f.ids), rows[same[0]].PromptLen
	f.ids = append(f.ids, rows[same[0]].IDs[:length]...)
	for k, i := range same {
		response := rows[i].Response()
		at := len(f.ids)
		f.ids = append(f.ids, response[:len(response)-1]...)
		for t, id := range response {
			from := at + t - 1
			if t == 0 {
				from = start + length - 1
			}
			f.predicting, f.targets, f.row = append(f.predicting, int64(from)), append(f.targets, id), append(f.row, int64(i))
		}
		if k == 0 {
			f.spans = append(f.spans, tensor.Span{Length: length + len(response) - 1})
		} else if len(response) > 1 {
			f.spans = append(f.spans, tensor.Span{Prefix: start, PrefixLength: length, Length: len(response) - 1})
		}
		for len(f.positions) < len(f.ids) {
			n := len(f.positions)
			if n < at {
				f.positions = append(f.positions, int64(n-start)) // the prompt
			} else {
				f.positions = append(f.positions, int64(length+n-at))
			}
		}
	}
}

// promptKey is equal for equal prompts.
func promptKey(ids []int64) string {
	var key []byte
	for _, id := range ids {
		key = binary.AppendVarint(key, id)
	}
	return string(key)
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

// trainingPass is a pass by token whose gradients flow.
func (m *Model) trainingPass(s *tensor.Scope, f *flat, how Compute) pass {
	p := pass{
		adapted: m.adapter.byWeight(), positions: s.FromInt64(f.positions, int64(len(f.positions))),
		scope: s, train: &training{how: how, kernels: m.eng.Device() == tensor.CPU && m.dtype == tensor.Float32 && !how.BFloat16},
	}
	p.attend = func(_ *tensor.Scope, layer int, q, k, v *tensor.Tensor) *tensor.Tensor {
		a := tensor.PackedAttention(q.Squeeze(2), k.Squeeze(2), v.Squeeze(2), f.spans, m.cfg.window(layer), m.cfg.attentionScale())
		return a.Unsqueeze(2)
	}
	return p
}

// training is what a pass whose gradients flow has besides.
type training struct {
	how     Compute
	kernels bool // Float32 on the CPU
}
