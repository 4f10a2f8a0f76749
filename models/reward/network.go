package reward

import (
	"errors"
	"fmt"
	"math"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/tensor"
)

// linear is a weight [Out, In] with its bias [Out].
type linear struct{ weight, bias *tensor.Tensor }

func (l linear) apply(x *tensor.Tensor) *tensor.Tensor { return x.Linear(l.weight, l.bias) }

// norm is a LayerNorm's weight and bias, [H].
type norm struct {
	weight, bias *tensor.Tensor
	eps          float64
}

func (n norm) apply(x *tensor.Tensor) *tensor.Tensor { return x.LayerNorm(n.weight, n.bias, n.eps) }

// layer is one layer of the encoder. Its norms follow the residual sums.
type layer struct {
	query, key, value linear
	// posKey (with Reward.C2P) and posQuery (with Reward.P2C) project the relative positions.
	posKey, posQuery linear
	attentionOut     linear
	attentionNorm    norm
	in, out          linear
	outNorm          norm
}

// network is the computation of DeBERTa (He et al., arXiv 2006.03654 and 2111.09543), without dropout.
type network struct {
	cfg           architecture.Reward
	tokens        *tensor.Tensor // [V, H]
	places        *tensor.Tensor // [MaxPositions, H], nil without absolute positions
	segments      *tensor.Tensor // [Segments, H], nil for none
	embeddingNorm norm
	relative      *tensor.Tensor // [2·span, H], nil without relative positions
	relativeNorm  norm
	layers        []layer
	pooler        linear
	classifier    linear
}

func newNetwork(c architecture.Reward, weights map[string]*tensor.Tensor) *network {
	linearOf := func(name string) linear { return linear{weights[name+".weight"], weights[name+".bias"]} }
	normOf := func(name string) norm { return norm{weights[name+".weight"], weights[name+".bias"], c.NormEps} }
	n := &network{
		cfg:           c,
		tokens:        weights["deberta.embeddings.word_embeddings.weight"],
		places:        weights["deberta.embeddings.position_embeddings.weight"],
		segments:      weights["deberta.embeddings.token_type_embeddings.weight"],
		embeddingNorm: normOf("deberta.embeddings.LayerNorm"),
		relative:      weights["deberta.encoder.rel_embeddings.weight"],
		relativeNorm:  normOf("deberta.encoder.LayerNorm"),
		pooler:        linearOf("pooler.dense"),
		classifier:    linearOf("classifier"),
	}
	for i := range c.Layers {
		at := fmt.Sprintf("deberta.encoder.layer.%d.", i)
		l := layer{
			query: linearOf(at + "attention.self.query_proj"), key: linearOf(at + "attention.self.key_proj"),
			value:  linearOf(at + "attention.self.value_proj"),
			posKey: linearOf(at + "attention.self.pos_key_proj"), posQuery: linearOf(at + "attention.self.pos_query_proj"),
			attentionOut: linearOf(at + "attention.output.dense"), attentionNorm: normOf(at + "attention.output.LayerNorm"),
			in: linearOf(at + "intermediate.dense"), out: linearOf(at + "output.dense"), outNorm: normOf(at + "output.LayerNorm"),
		}
		if c.ShareKey {
			l.posKey, l.posQuery = l.key, l.query
		}
		n.layers = append(n.layers, l)
	}
	return n
}

// input is a padded batch.
type input struct {
	ids      *tensor.Tensor // Int64 [B, T]
	segments *tensor.Tensor // Int64 [B, T]: 0 in the prompt, 1 after it
	mask     *tensor.Tensor // Float32 [B, T]: 1 for a token, 0 for padding
}

// logits runs the whole network: -> [B, Labels].
func (n *network) logits(s *tensor.Scope, in input) *tensor.Tensor {
	length := in.ids.Size(1)
	x := n.tokens.Embedding(in.ids)
	if n.places != nil {
		x = x.Add(n.places.Narrow(0, 0, length))
	}
	if n.segments != nil {
		x = x.Add(n.segments.Embedding(in.segments))
	}
	x = n.embeddingNorm.apply(x).Mul(in.mask.Unsqueeze(-1))
	a := attention{
		heads: int64(n.cfg.Heads), scale: scaleOf(n.cfg), hide: in.mask.EqScalar(0).Unsqueeze(1).Unsqueeze(1),
	}
	if n.relative != nil && (n.cfg.C2P || n.cfg.P2C) {
		a.relative = n.relative
		if n.cfg.NormRelative {
			a.relative = n.relativeNorm.apply(a.relative)
		}
		a.index = s.FromInt64(relativeIndex(n.cfg, int(length)), 1, 1, length, length)
		a.c2p, a.p2c = n.cfg.C2P, n.cfg.P2C
	}
	for _, l := range n.layers {
		before := x
		x = s.Result(func(s *tensor.Scope) *tensor.Tensor { return l.forward(s, before, a) })
		before.Free()
	}
	pooled := n.pooler.apply(x.Select(1, 0)).Gelu()
	return n.classifier.apply(pooled)
}

// forward is x [B, T, H] -> [B, T, H].
func (l layer) forward(s *tensor.Scope, x *tensor.Tensor, a attention) *tensor.Tensor {
	mixed := s.Result(func(s *tensor.Scope) *tensor.Tensor { return a.mix(s, l, x) })
	x = l.attentionNorm.apply(l.attentionOut.apply(mixed).Add(x))
	inner := s.Result(func(*tensor.Scope) *tensor.Tensor { return l.in.apply(x).Gelu() })
	return l.outNorm.apply(l.out.apply(inner).Add(x))
}

// attention is what the attention of all layers shares.
type attention struct {
	heads    int64
	scale    float64        // of the sum of all terms
	hide     *tensor.Tensor // Bool [B, 1, 1, T]: no token attends to these
	relative *tensor.Tensor // [R, H], R = 2·span; nil for attention by content alone
	index    *tensor.Tensor // Int64 [1, 1, T, T]: the row of relative for query and key
	c2p, p2c bool
}

// split is [..., T, H] -> [..., heads, T, D].
func (a attention) split(x *tensor.Tensor) *tensor.Tensor {
	shape := x.Shape()
	at := int64(len(shape)) - 2
	x = x.Reshape(append(shape[:at+1:at+1], a.heads, shape[at+1]/a.heads)...)
	return x.Transpose(at, at+1).Contiguous()
}

// mix is disentangled self-attention: x [B, T, H] -> [B, T, H]. The score of query i and key j is
// (Q_i·K_j + Q_i·Kr_δ(i,j) + K_j·Qr_δ(i,j))·scale: equation (4) of arXiv 2006.03654, but with δ(i,j) in the last term too,
// as the models were trained.
func (a attention) mix(s *tensor.Scope, l layer, x *tensor.Tensor) *tensor.Tensor {
	batch, length, width := x.Size(0), x.Size(1), x.Size(2)
	q, k, v := a.split(l.query.apply(x)), a.split(l.key.apply(x)), a.split(l.value.apply(x))
	score := q.Matmul(k.Transpose(-1, -2))
	if a.c2p {
		score.Add_(s.Result(func(*tensor.Scope) *tensor.Tensor {
			return a.byDistance(q, l.posKey, a.index)
		}))
	}
	if a.p2c { // by key and query, so transposed
		score.Add_(s.Result(func(*tensor.Scope) *tensor.Tensor {
			return a.byDistance(k, l.posQuery, a.index.Transpose(-1, -2)).Transpose(-1, -2)
		}))
	}
	share := score.MulScalar_(a.scale).MaskedFill(a.hide, -math.MaxFloat32).Softmax(-1)
	return share.Matmul(v).Transpose(1, 2).Reshape(batch, length, width)
}

// byDistance is the product of each token's vector, x [B, heads, T, D], with the vector of its relative position to every
// other token, which index [1, 1, T, T] names -> [B, heads, T, T].
func (a attention) byDistance(x *tensor.Tensor, l linear, index *tensor.Tensor) *tensor.Tensor {
	length := x.Size(2)
	positions := a.split(l.apply(a.relative)).Transpose(-1, -2) // [heads, D, 2·span]
	return x.Matmul(positions).Gather(-1, index.Expand(x.Size(0), a.heads, length, length))
}

// scaleOf is one over the square root of the head size times the number of terms that the configuration names, even when
// relative positions are off.
func scaleOf(c architecture.Reward) float64 {
	terms := 1
	for _, on := range []bool{c.C2P, c.P2C} {
		if on {
			terms++
		}
	}
	return 1 / math.Sqrt(float64(terms*c.Hidden/c.Heads))
}

// relativeIndex is δ: for query i and key j the row of the table of relative positions, [length·length] by query.
func relativeIndex(c architecture.Reward, length int) []int64 {
	row := make([]int64, 2*length-1) // by distance
	for i := range row {
		row[i] = min(max(bucket(c, i-(length-1))+int64(c.RelativeSpan()), 0), 2*int64(c.RelativeSpan())-1)
	}
	index := make([]int64, 0, length*length)
	for i := range length {
		for j := range length {
			index = append(index, row[i-j+length-1])
		}
	}
	return index
}

// bucket is the bucket of a distance: itself up to Buckets/2, and from there on by its logarithm, with MaxRelative-1 in
// the last one (appendix A.5 of arXiv 2111.09543). It is computed in float32, step by step as the models were trained.
func bucket(c architecture.Reward, distance int) int64 {
	middle := c.Buckets / 2
	far := max(distance, -distance)
	if c.Buckets == 0 || far <= middle {
		return int64(distance)
	}
	log := func(x float64) float32 { return float32(math.Log(float64(float32(x)))) }
	share := log(float64(far)/float64(middle)) / log(float64(c.MaxRelative-1)/float64(middle))
	b := int64(math.Ceil(float64(share*float32(middle-1)))) + int64(middle)
	if distance < 0 {
		return -b
	}
	return b
}

// input pads a batch. Every row must have a prompt and fit; otherwise the error wraps models.ErrSequence and names the row.
func (n *network) input(s *tensor.Scope, rows []models.Sequence, pad PadRule) (input, error) {
	if pad.Length > n.cfg.MaxLength() {
		return input{}, fmt.Errorf("%w: %d positions, the model takes %d", models.ErrSequence, pad.Length, n.cfg.MaxLength())
	}
	ids, err := pad.pad(rows)
	if err != nil {
		return input{}, err
	}
	segments, mask := make([]int64, len(ids)), make([]float32, len(ids))
	for i, row := range rows {
		if err := check(n.cfg, row); err != nil {
			return input{}, fmt.Errorf("%w: row %d %w", models.ErrSequence, i, err)
		}
		for t := range row.IDs {
			mask[i*pad.Length+t] = 1
			if t >= row.PromptLen {
				segments[i*pad.Length+t] = 1
			}
		}
	}
	if n.cfg.Segments < 2 {
		clear(segments)
	}
	b, t := int64(pad.Rows), int64(pad.Length)
	return input{s.FromInt64(ids, b, t), s.FromInt64(segments, b, t), s.FromFloat32(mask, b, t)}, nil
}

// check returns what is wrong with a sequence.
func check(c architecture.Reward, row models.Sequence) error {
	switch {
	case row.PromptLen < 1 || row.PromptLen > len(row.IDs) || len(row.IDs) > c.MaxLength():
		return fmt.Errorf("has %d tokens, %d of them prompt: want a prompt and at most %d tokens",
			len(row.IDs), row.PromptLen, c.MaxLength())
	case c.Segments == 1 && row.PromptLen < len(row.IDs):
		return errors.New("is a pair, but the model has only one segment (type_vocab_size 1)")
	}
	for _, id := range row.IDs {
		if id < 0 || id >= int64(c.Vocab) {
			return fmt.Errorf("has token %d, the vocabulary has %d", id, c.Vocab)
		}
	}
	return nil
}
