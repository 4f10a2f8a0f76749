package models

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/ldalign/ldalign/models/tensor"
)

// headBytes bounds the logits that exist at a time in training: 512 positions of a vocabulary of 49,152.
const headBytes = 96 << 20

// PackedBatch is sequences that follow each other without padding, for computation with gradients. Every position of it is a
// row of x in Hidden: first the PackingOptions.Front positions of each sequence, then the Tokens. The last bits of a
// sequence's numbers depend on the other sequences and their order. Backward adds gradients to the weights, see
// tensor.TrainLinear.
type PackedBatch struct {
	Tokens []Position
	// Predictions are the response tokens; those of one sequence follow each other.
	Predictions []Prediction

	model     *Model
	options   PackingOptions
	rows      int
	ids       []int64 // of the tokens
	positions []int64 // of every position, its number in its own sequence
	segments  []tensor.Segment
}

// Position is token At of sequence Row. The tokens of a prompt that several sequences share are those of the first of these
// sequences.
type Position struct{ Row, At int }

// Prediction is a response token of sequence Row. From is the position whose hidden state predicts it, a row of Hidden's
// result.
type Prediction struct {
	Row, From int
	Token     int64
}

// PackingOptions say what a packed batch contains and how it is computed.
type PackingOptions struct {
	Compute Compute
	// Share computes a prompt once for all sequences that begin with it.
	Share bool
	// Whole includes the last token of each response, although it predicts nothing.
	Whole bool
	// Front is how many positions each sequence has in front of its tokens, for embeddings of the caller's own. Memory lets
	// each sequence see one more key and value in every layer, see Hidden. At most one of Share, Front and Memory may be set.
	Front  int
	Memory bool
}

// PackBatch packs rows; a row without a response adds no tokens. The error wraps ErrSequence and names a row that has no
// prompt, is too long for the model, or has an id outside of the vocabulary.
func (m *Model) PackBatch(rows []Sequence, o PackingOptions) (*PackedBatch, error) {
	if o.Share && (o.Front > 0 || o.Memory) || o.Front > 0 && o.Memory {
		return nil, errors.New("models: pack a batch: set at most one of Share, Front and Memory")
	}
	if m.packed != nil {
		return nil, fmt.Errorf("models: pack a batch: %w", ErrPacked)
	}
	b := &PackedBatch{model: m, options: o, rows: len(rows)}
	var groups [][]int         // of rows that share a prompt
	shared := map[string]int{} // the group of a prompt
	for i, row := range rows {
		if err := row.fits(m.cfg, o.Front); err != nil {
			return nil, fmt.Errorf("row %d: %w", i, err)
		}
		if o.Front > 0 {
			b.segments = append(b.segments, tensor.Segment{Length: o.Front})
			for at := range o.Front {
				b.positions = append(b.positions, int64(at))
			}
		}
		if len(row.IDs) == row.PromptLen {
			continue
		}
		if o.Share {
			key := promptKey(row.IDs[:row.PromptLen])
			if k, found := shared[key]; found {
				groups[k] = append(groups[k], i)
				continue
			}
			shared[key] = len(groups)
		}
		groups = append(groups, []int{i})
	}
	for _, same := range groups {
		b.add(rows, same)
	}
	if o.Memory { // its keys follow all others
		for k, same := range groups {
			b.segments[k].Prefix, b.segments[k].PrefixLength = len(b.positions)+same[0], 1
		}
	}
	return b, nil
}

// add packs rows that share a prompt, or a single row.
func (b *PackedBatch) add(rows []Sequence, same []int) {
	first, prompt := len(b.positions), rows[same[0]].PromptLen
	b.tokens(rows[same[0]], same[0], 0, prompt)
	for k, i := range same {
		row, own := rows[i], len(b.positions)
		end := len(row.IDs)
		if !b.options.Whole {
			end--
		}
		b.tokens(row, i, prompt, end)
		switch {
		case k > 0 && end > prompt:
			b.segments = append(b.segments, tensor.Segment{Prefix: first, PrefixLength: prompt, Length: end - prompt})
		case k > 0: // no token but the shared ones
		case b.options.Front > 0:
			b.segments = append(b.segments, tensor.Segment{Prefix: i * b.options.Front, PrefixLength: b.options.Front, Length: end})
		default:
			b.segments = append(b.segments, tensor.Segment{Length: end})
		}
		for t, id := range row.Response() {
			from := own + t - 1
			if t == 0 {
				from = first + prompt - 1
			}
			b.Predictions = append(b.Predictions, Prediction{Row: i, From: from, Token: id})
		}
	}
}

// tokens adds the tokens from..end-1 of a row.
func (b *PackedBatch) tokens(row Sequence, index, from, end int) {
	for at := from; at < end; at++ {
		b.Tokens = append(b.Tokens, Position{Row: index, At: at})
		b.ids = append(b.ids, row.IDs[at])
		b.positions = append(b.positions, int64(b.options.Front+at))
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

// Embed returns the embeddings of the Tokens -> [len(Tokens), H]. Hidden adds what depends on their positions.
func (b *PackedBatch) Embed(s *tensor.Scope) *tensor.Tensor {
	m, n := b.model, int64(len(b.ids))
	return m.net.embed(s.FromInt64(b.ids, n, 1), pass{train: b.training()}).Reshape(n, int64(m.cfg.Hidden))
}

// Hidden runs the layers and the final norm: x [N, H], the embeddings of all N positions -> [N, H]. With
// PackingOptions.Memory, memory [R, Layers, KVHeads·D] has a vector for each of the R sequences and each layer, which is
// both a key and its value for all tokens of the sequence (Optimus' memory scheme). It has no position; a local layer sees
// it from within its window alone. Otherwise memory is nil.
func (b *PackedBatch) Hidden(s *tensor.Scope, x, memory *tensor.Tensor) *tensor.Tensor {
	m, n := b.model, int64(len(b.positions))
	if n == 0 {
		return s.Zeros(m.dtype, 0, int64(m.cfg.Hidden))
	}
	m.net.reach(s, int(slices.Max(b.positions))+1)
	x = x.Reshape(n, 1, int64(m.cfg.Hidden)) // a pass frees its input, and x is the caller's
	return m.net.hidden(x, b.pass(s, memory)).Reshape(n, int64(m.cfg.Hidden))
}

// pass is a pass by token whose gradients flow.
func (b *PackedBatch) pass(s *tensor.Scope, memory *tensor.Tensor) pass {
	m := b.model
	p := pass{
		adapted: m.adapter.byWeight(), positions: s.FromInt64(b.positions, int64(len(b.positions))), scope: s, train: b.training(),
	}
	p.attend = func(s *tensor.Scope, layer int, q, k, v *tensor.Tensor) *tensor.Tensor {
		q, k, v = q.Squeeze(2), k.Squeeze(2), v.Squeeze(2)
		if memory != nil {
			more := memory.Select(1, int64(layer)).Reshape(-1, int64(m.cfg.KVHeads), int64(m.cfg.HeadDim)).To(k.DType())
			k, v = s.Cat(0, k, more), s.Cat(0, v, more)
		}
		return tensor.PackedAttention(q, k, v, b.segments, m.cfg.Window(layer), m.cfg.AttentionScale()).Unsqueeze(2)
	}
	return p
}

func (b *PackedBatch) training() *training {
	m, how := b.model, b.options.Compute
	return &training{how: how, kernels: m.eng.Device() == tensor.CPU && m.dtype == tensor.Float32 && !how.BFloat16}
}

// LogProbs is log p(token | all before) of the Predictions, given the final hidden states h [N, H] -> [len(Predictions)]
// Float32 (Float64 for a Float64 model). Unless the head has an adapter, only a bounded part of the logits exists at a time.
func (b *PackedBatch) LogProbs(s *tensor.Scope, h *tensor.Tensor) *tensor.Tensor {
	m, n := b.model, len(b.Predictions)
	dtype := m.lossType()
	if n == 0 {
		return s.Zeros(dtype, 0)
	}
	from, ids := make([]int64, n), make([]int64, n)
	for i, p := range b.Predictions {
		from[i], ids[i] = int64(p.From), p.Token
	}
	h, target := h.IndexSelect(0, s.FromInt64(from, int64(n))), s.FromInt64(ids, int64(n))
	if m.adapter.byWeight()[m.net.head()] != nil {
		return m.tokenLogits(h).To(dtype).LogSoftmax(-1).Gather(1, target.Unsqueeze(1)).Squeeze(1)
	}
	return h.TrainLogProbs(m.net.head(), target, max(16, headBytes/(4*m.cfg.Vocab)))
}

// Sums adds up the values of each sequence's Predictions: values [len(Predictions)] -> [R]. It adds in Float64.
func (b *PackedBatch) Sums(s *tensor.Scope, values *tensor.Tensor) *tensor.Tensor {
	sums := s.Zeros(tensor.Float64, int64(b.rows))
	if n := int64(len(b.Predictions)); n > 0 {
		rows := make([]int64, n)
		for i, p := range b.Predictions {
			rows[i] = int64(p.Row)
		}
		sums = sums.IndexAdd(0, s.FromInt64(rows, n), values.To(tensor.Float64))
	}
	return sums.To(values.DType())
}
