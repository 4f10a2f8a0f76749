package models

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/ldalign/ldalign/models/tensor"
)

// Layout is sequences laid out one after another, without padding, for computation whose gradients flow. Each of its places
// is a row of x in Hidden: first those of LayoutOptions.Front, then the Tokens. What a sequence gets in its last bits depends
// on the others and their order. Gradients are added to the weights by Backward, see tensor.TrainLinear.
type Layout struct {
	Tokens []Place
	// Predictions are the response tokens, those of one sequence one after another.
	Predictions []Prediction

	model     *Model
	options   LayoutOptions
	rows      int
	ids       []int64 // of the tokens
	positions []int64 // of all places
	spans     []tensor.Span
}

// Place is where a token comes from: token At of sequence Row. A prompt that several share is of the first of them.
type Place struct{ Row, At int }

// Prediction is a response token of sequence Row, and the place, counted in all places, behind which it stands.
type Prediction struct {
	Row, Place int
	Token      int64
}

// LayoutOptions say what a layout holds and how it is computed.
type LayoutOptions struct {
	Compute Compute
	// Share computes a prompt once for all sequences that begin with it.
	Share bool
	// Whole gives the last token of a response a place as well, which predicts nothing.
	Whole bool
	// Front is how many places each sequence has in front of its tokens, for embeddings of the caller's own: the first
	// sequence's, then the second's. Memory lets each sequence see one more key and value in every layer, see Hidden. A layout
	// has one of Share, Front and Memory at most.
	Front  int
	Memory bool
}

// Layout lays out rows; one without a response has no tokens in it. The error wraps ErrSequence and names the row that has no
// prompt, is longer than the model takes, or has an id outside of the vocabulary.
func (m *Model) Layout(rows []Sequence, o LayoutOptions) (*Layout, error) {
	if o.Share && (o.Front > 0 || o.Memory) || o.Front > 0 && o.Memory {
		return nil, errors.New("models: layout: it has one of Share, Front and Memory")
	}
	if m.packed != nil {
		return nil, fmt.Errorf("models: layout: %w", ErrPacked)
	}
	l := &Layout{model: m, options: o, rows: len(rows)}
	var groups [][]int         // of rows that are laid out together
	shared := map[string]int{} // the group of a prompt
	for i, row := range rows {
		if err := m.takes(row, o.Front); err != nil {
			return nil, fmt.Errorf("row %d: %w", i, err)
		}
		if o.Front > 0 {
			l.spans = append(l.spans, tensor.Span{Length: o.Front})
			for at := range o.Front {
				l.positions = append(l.positions, int64(at))
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
		l.add(rows, same)
	}
	if o.Memory { // its keys stand behind all others
		for k, same := range groups {
			l.spans[k].Prefix, l.spans[k].PrefixLength = len(l.positions)+same[0], 1
		}
	}
	return l, nil
}

// add lays out rows that share a prompt, or a single one.
func (l *Layout) add(rows []Sequence, same []int) {
	first, prompt := len(l.positions), rows[same[0]].PromptLen
	l.tokens(rows[same[0]], same[0], 0, prompt)
	for k, i := range same {
		row, own := rows[i], len(l.positions)
		end := len(row.IDs)
		if !l.options.Whole {
			end--
		}
		l.tokens(row, i, prompt, end)
		switch {
		case k > 0 && end > prompt:
			l.spans = append(l.spans, tensor.Span{Prefix: first, PrefixLength: prompt, Length: end - prompt})
		case k > 0: // nothing of its own
		case l.options.Front > 0:
			l.spans = append(l.spans, tensor.Span{Prefix: i * l.options.Front, PrefixLength: l.options.Front, Length: end})
		default:
			l.spans = append(l.spans, tensor.Span{Length: end})
		}
		for t, id := range row.Response() {
			behind := own + t - 1
			if t == 0 {
				behind = first + prompt - 1
			}
			l.Predictions = append(l.Predictions, Prediction{Row: i, Place: behind, Token: id})
		}
	}
}

// tokens gives places to the tokens from..end-1 of a row.
func (l *Layout) tokens(row Sequence, index, from, end int) {
	for at := from; at < end; at++ {
		l.Tokens = append(l.Tokens, Place{Row: index, At: at})
		l.ids = append(l.ids, row.IDs[at])
		l.positions = append(l.positions, int64(l.options.Front+at))
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

// Embed are the embeddings of the Tokens -> [len(Tokens), H]. Positions come in with Hidden.
func (l *Layout) Embed(s *tensor.Scope) *tensor.Tensor {
	m, n := l.model, int64(len(l.ids))
	return m.net.embed(s.FromInt64(l.ids, n, 1), pass{train: l.training()}).Reshape(n, int64(m.cfg.Hidden))
}

// Hidden runs the layers and the final norm: x [N, H], the embeddings of all N places -> [N, H]. With LayoutOptions.Memory,
// memory [R, Layers, KVHeads·D] is for each of the R sequences a vector a layer, which is both key and value for all tokens of
// the sequence (Optimus' memory scheme) and has no position; a local layer sees it from within its window alone. Otherwise
// memory is nil.
func (l *Layout) Hidden(s *tensor.Scope, x, memory *tensor.Tensor) *tensor.Tensor {
	m, n := l.model, int64(len(l.positions))
	if n == 0 {
		return s.Zeros(m.dtype, 0, int64(m.cfg.Hidden))
	}
	m.net.reach(s, int(slices.Max(l.positions))+1)
	x = x.Reshape(n, 1, int64(m.cfg.Hidden)) // the caller's own is not for a pass to free
	return m.net.hidden(x, l.pass(s, memory)).Reshape(n, int64(m.cfg.Hidden))
}

// pass is a pass by token whose gradients flow.
func (l *Layout) pass(s *tensor.Scope, memory *tensor.Tensor) pass {
	m := l.model
	p := pass{
		adapted: m.adapter.byWeight(), positions: s.FromInt64(l.positions, int64(len(l.positions))), scope: s, train: l.training(),
	}
	p.attend = func(s *tensor.Scope, layer int, q, k, v *tensor.Tensor) *tensor.Tensor {
		q, k, v = q.Squeeze(2), k.Squeeze(2), v.Squeeze(2)
		if memory != nil {
			more := memory.Select(1, int64(layer)).Reshape(-1, int64(m.cfg.KVHeads), int64(m.cfg.HeadDim)).To(k.DType())
			k, v = s.Cat(0, k, more), s.Cat(0, v, more)
		}
		return tensor.PackedAttention(q, k, v, l.spans, m.cfg.Window(layer), m.cfg.AttentionScale()).Unsqueeze(2)
	}
	return p
}

func (l *Layout) training() *training {
	m, how := l.model, l.options.Compute
	return &training{how: how, kernels: m.eng.Device() == tensor.CPU && m.dtype == tensor.Float32 && !how.BFloat16}
}

// LogProbs is log p(token | all before) of the Predictions, given the final hidden states h [N, H] -> [len(Predictions)]
// Float32 (Float64 for a Float64 model). Of the logits a bounded part exists at a time, unless the head has an adapter.
func (l *Layout) LogProbs(s *tensor.Scope, h *tensor.Tensor) *tensor.Tensor {
	m, n := l.model, len(l.Predictions)
	dtype := m.lossType()
	if n == 0 {
		return s.Zeros(dtype, 0)
	}
	at, ids := make([]int64, n), make([]int64, n)
	for i, p := range l.Predictions {
		at[i], ids[i] = int64(p.Place), p.Token
	}
	h, target := h.IndexSelect(0, s.FromInt64(at, int64(n))), s.FromInt64(ids, int64(n))
	if m.adapter.byWeight()[m.net.head()] != nil {
		return m.tokenLogits(h).To(dtype).LogSoftmax(-1).Gather(1, target.Unsqueeze(1)).Squeeze(1)
	}
	return h.TrainLogProbs(m.net.head(), target, max(16, headBytes/(4*m.cfg.Vocab)))
}

// Sums adds up what the Predictions of each sequence have: values [len(Predictions)] -> [R], in Float64 on the way.
func (l *Layout) Sums(s *tensor.Scope, values *tensor.Tensor) *tensor.Tensor {
	sums := s.Zeros(tensor.Float64, int64(l.rows))
	if n := int64(len(l.Predictions)); n > 0 {
		rows := make([]int64, n)
		for i, p := range l.Predictions {
			rows[i] = int64(p.Row)
		}
		sums = sums.IndexAdd(0, s.FromInt64(rows, n), values.To(tensor.Float64))
	}
	return sums.To(values.DType())
}
