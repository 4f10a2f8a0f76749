// Package guide is the guiding model of LD-Align: an auto-encoder over responses. The encoder phi reads a prompt x with a
// response y and returns a latent h. The decoder psi reconstructs y from x and h. The distance between two latents then
// measures how far a sampled response is from the human one.
//
// Encoder and decoder are language models of any family. The encoder's last hidden states are pooled over the response (a
// causal encoder's prompt positions have not seen it) and mapped to [K]. The decoder sees h in one of three ways: as a soft
// prefix, h mapped to a few input embeddings in front of the prompt; as a memory, h mapped to one more key and value in
// every layer; or added to every token's embedding. It also sees the response's earlier tokens, so it could ignore h. Hiding
// some of them (word dropout) makes it need h, and ShuffledLoss shows whether it uses h.
//
// A Guide is trained; an Encoder is the half of a trained guide that the encoder stage needs.
package guide

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/tensor"
)

// Guide is an encoder with its decoder. Methods that take a context use the engine themselves; methods that take a
// scope are called inside Engine.Do.
type Guide struct {
	cfg              architecture.Guide
	encoder, decoder *models.Model
	// own are the weights outside of the two models, as architecture.Guide lists them.
	own []tensor.Named
}

// weight returns one of the guide's own weights; nil if this guide has none of that name.
func (g *Guide) weight(name string) *tensor.Tensor {
	for _, w := range g.own {
		if w.Name == name {
			return w.Tensor
		}
	}
	return nil
}

// apply applies a linear layer of the guide's own.
func (g *Guide) apply(name string, x *tensor.Tensor) *tensor.Tensor {
	return x.Linear(g.weight(name+".weight"), g.weight(name+".bias"))
}

// New returns a guide with random projections between the models, a function of the seed. Both models must live on one engine. If
// New succeeds they belong to the guide, which closes them.
func New(ctx context.Context, encoder, decoder *models.Model, cfg architecture.GuideConfig, seed uint64) (*Guide, error) {
	switch {
	case encoder == decoder:
		return nil, fmt.Errorf("%w: encoder and decoder are the same model: give each its own", architecture.ErrGuide)
	case encoder.Engine() != decoder.Engine():
		return nil, fmt.Errorf("%w: encoder and decoder live on different engines", architecture.ErrGuide)
	case encoder.DType() != decoder.DType():
		return nil, fmt.Errorf("%w: the encoder computes in %v, the decoder in %v",
			architecture.ErrGuide, encoder.DType(), decoder.DType())
	}
	described := architecture.Guide{Config: cfg, Encoder: encoder.Config(), Decoder: decoder.Config()}
	if err := described.Validate(); err != nil {
		return nil, err
	}
	g := &Guide{cfg: described, encoder: encoder, decoder: decoder}
	err := encoder.Engine().Do(ctx, func(s *tensor.Scope) error {
		own := map[string]*tensor.Tensor{}
		for _, w := range g.cfg.Own() {
			switch w.Name {
			case architecture.GuideLatent + ".weight": // latents have the scale of hidden states
				own[w.Name] = models.Normal(s, seed, w.Name, 1/math.Sqrt(float64(encoder.Config().Hidden)), w.Shape...)
			case architecture.GuidePrefix + ".weight", architecture.GuideMemory, architecture.GuideEmbedding,
				architecture.GuideHiddenToken: // of the size of the decoder's embeddings
				own[w.Name] = models.Normal(s, seed, w.Name, decoder.Config().InitializerRange, w.Shape...)
			default:
				own[w.Name] = s.Zeros(tensor.Float32, w.Shape...)
			}
			own[w.Name] = own[w.Name].To(encoder.DType())
		}
		g.keep(own)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("guide: new: %w", err)
	}
	return g, nil
}

// keep keeps the guide's own weights outside of all scopes.
func (g *Guide) keep(weights map[string]*tensor.Tensor) {
	for _, w := range g.cfg.Own() {
		g.own = append(g.own, tensor.Named{Name: w.Name, Tensor: weights[w.Name].Keep()})
	}
}

// Params returns all weights that the loss depends on, in a fixed order: encoder.*, decoder.*, then the projections. An encoder's
// untied output head is left out, because nothing reads it.
func (g *Guide) Params() []tensor.Named {
	var list []tensor.Named
	for _, part := range []struct {
		prefix string
		model  *models.Model
	}{{architecture.GuideEncoderPrefix, g.encoder}, {architecture.GuideDecoderPrefix, g.decoder}} {
		for _, p := range part.model.Params() {
			if part.model == g.encoder && p.Name == "lm_head.weight" {
				continue
			}
			list = append(list, tensor.Named{Name: part.prefix + p.Name, Tensor: p.Tensor})
		}
	}
	return append(list, g.own...)
}

// SetTrainable sets whether gradients are computed for the Params.
func (g *Guide) SetTrainable(ctx context.Context, on bool) error {
	return g.Engine().Do(ctx, func(*tensor.Scope) error {
		for _, p := range g.Params() {
			p.Tensor.RequiresGrad_(on)
		}
		return nil
	})
}

// Engine returns the engine of the guide.
func (g *Guide) Engine() *tensor.Engine { return g.encoder.Engine() }

// Config returns the guide's configuration.
func (g *Guide) Config() architecture.Guide { return g.cfg }

// MaxLength returns the greatest number of tokens of prompt and response together.
func (g *Guide) MaxLength() int { return g.cfg.MaxLength() }

// Close frees the guide and its two models. It may be called after the engine was closed.
func (g *Guide) Close(ctx context.Context) error {
	err := g.Engine().Do(ctx, func(*tensor.Scope) error {
		for _, p := range g.own {
			p.Tensor.Free()
		}
		return nil
	})
	if errors.Is(err, tensor.ErrClosed) { // it freed everything
		err = nil
	}
	return errors.Join(err, g.encoder.Close(ctx), g.decoder.Close(ctx))
}

// Encode is h = phi(x, y) of each row -> [len(rows), K]. Every row must have a response. The last bits of a row's latent
// depend on the other rows, as in models.PackedBatch; those of Encoder.Latents do not.
func (g *Guide) Encode(s *tensor.Scope, rows []models.Sequence, how models.Compute) *tensor.Tensor {
	batch, err := g.encoder.PackBatch(rows, models.PackingOptions{Compute: how, Share: true, Whole: true})
	for i, row := range rows {
		if err == nil && len(row.Response()) == 0 {
			err = noResponse(i)
		}
	}
	if err != nil {
		s.Fail(err)
		return s.Zeros(tensor.Float32) // invalid, as everything in a failed scope
	}
	var places, owners []int64 // of the hidden states that are pooled
	var shares []float64
	for i, p := range batch.Tokens {
		row := rows[p.Row]
		n, from := len(row.Response()), row.PromptLen
		if g.cfg.Config.Pooling == architecture.PoolLast {
			n, from = 1, len(row.IDs)-1
		}
		if p.At >= from {
			places, owners, shares = append(places, int64(i)), append(owners, int64(p.Row)), append(shares, 1/float64(n))
		}
	}
	n, dtype := int64(len(places)), g.encoder.DType()
	owner := s.FromInt64(owners, n)
	h := batch.Hidden(s, batch.Embed(s), nil).IndexSelect(0, s.FromInt64(places, n)).To(dtype)
	share := s.FromFloat64(shares, n, 1).To(dtype)
	if g.cfg.Config.Pooling == architecture.PoolAttention {
		share = g.attention(s, h, owners, len(rows))
	}
	pooled := s.Zeros(dtype, int64(len(rows)), h.Size(1)).IndexAdd(0, owner, h.Mul(share))
	return g.apply(architecture.GuideLatent, pooled)
}

func noResponse(row int) error {
	return fmt.Errorf("%w: row %d has no response to encode", models.ErrSequence, row)
}

// attention returns the weight of each hidden state for PoolAttention, a softmax over the states of each row: h [N, H] -> [N, 1].
// rows [N] has the row of each state, a number below count.
func (g *Guide) attention(s *tensor.Scope, h *tensor.Tensor, rows []int64, count int) *tensor.Tensor {
	energies := h.Mul(g.weight(architecture.GuidePooling)).SumDims(true, 1).Gelu()
	most := make([]float64, count)
	for i := range most {
		most[i] = math.Inf(-1)
	}
	values := energies.Detach().Float64s()
	if s.Err() != nil {
		return energies // invalid, as everything in a failed scope
	}
	for i, v := range values {
		most[rows[i]] = max(most[rows[i]], v)
	}
	row := s.FromInt64(rows, int64(len(rows)))
	shift := s.FromFloat64(most, int64(count), 1).To(energies.DType()).IndexSelect(0, row)
	exponents := energies.Sub(shift).Exp()
	sums := s.Zeros(energies.DType(), int64(count), 1).IndexAdd(0, row, exponents)
	return exponents.Div(sums.IndexSelect(0, row))
}

// Reconstruct is -log p_psi(y | x, h) of each row, over its response's tokens and reduced by GuideConfig.Reduction: latents
// [len(rows), K] -> [len(rows)]. It is 0 for a row without a response. drop has one seed for each row, which determines the
// tokens that word dropout hides from the decoder's input; nil hides none.
func (g *Guide) Reconstruct(
	s *tensor.Scope, rows []models.Sequence, latents *tensor.Tensor, drop []uint64, how models.Compute,
) *tensor.Tensor {
	memory := g.cfg.Config.Injects() == architecture.InjectMemory
	batch, err := g.decoder.PackBatch(rows, models.PackingOptions{Compute: how, Front: g.cfg.Config.Positions(), Memory: memory})
	if err == nil && drop != nil && len(drop) != len(rows) {
		err = fmt.Errorf("guide: %d dropout seeds for %d rows", len(drop), len(rows))
	}
	if err != nil {
		s.Fail(err)
		return s.Zeros(tensor.Float32) // invalid, as everything in a failed scope
	}
	text := batch.Embed(s)
	if hidden := g.weight(architecture.GuideHiddenToken); drop != nil && hidden != nil {
		mask := s.FromFloat32(g.dropped(rows, batch, drop), int64(len(batch.Tokens)), 1).To(text.DType())
		text = text.Add(mask.Mul(hidden.To(text.DType()).Sub(text)))
	}
	var h *tensor.Tensor
	switch g.cfg.Config.Injects() {
	case architecture.InjectMemory:
		layers := latents.Linear(g.weight(architecture.GuideMemory), nil)
		h = batch.Hidden(s, text, layers.Reshape(int64(len(rows)), int64(g.decoder.Config().Layers), -1))
	case architecture.InjectEmbedding:
		owners := make([]int64, len(batch.Tokens))
		for i, p := range batch.Tokens {
			owners[i] = int64(p.Row)
		}
		each := latents.Linear(g.weight(architecture.GuideEmbedding), nil).IndexSelect(0, s.FromInt64(owners, int64(len(owners))))
		h = batch.Hidden(s, text.Add(each.To(text.DType())), nil)
	default:
		prefix := g.apply(architecture.GuidePrefix, latents).Reshape(-1, text.Size(1))
		h = batch.Hidden(s, s.Cat(0, prefix.To(text.DType()), text), nil)
	}
	loss := batch.Sums(s, batch.LogProbs(s, h)).Neg()
	if g.cfg.Config.Reduction == architecture.ReduceSum {
		return loss
	}
	scale := make([]float64, len(rows))
	for i, row := range rows {
		scale[i] = 1 / float64(max(len(row.Response()), 1))
	}
	return loss.Mul(s.FromFloat64(scale, int64(len(rows))).To(loss.DType()))
}

// dropped returns 1 for each token of a response that is hidden, else 0: [len(batch.Tokens)].
func (g *Guide) dropped(rows []models.Sequence, batch *models.PackedBatch, seeds []uint64) []float32 {
	mask := make([]float32, len(batch.Tokens))
	for i, p := range batch.Tokens {
		if t := p.At - rows[p.Row].PromptLen; t >= 0 && models.Uniform(seeds[p.Row], t) < g.cfg.Config.WordDropout {
			mask[i] = 1
		}
	}
	return mask
}

// Loss is the reconstruction loss of each row by its own latent, with word dropout -> [len(rows)]. Equation (2) is the
// mean over pairs of the sum of the losses of (x, y) and (x, y'): give both as rows. Row i draws its dropout from seed
// and i. Backward adds its gradients to the weights, see models.PackedBatch.
func (g *Guide) Loss(s *tensor.Scope, rows []models.Sequence, seed uint64, how models.Compute) *tensor.Tensor {
	drop := make([]uint64, len(rows))
	for i := range drop {
		drop[i] = seed + uint64(i)
	}
	return g.Reconstruct(s, rows, g.Encode(s, rows, how), drop, how)
}

// ShuffledLoss shows whether the decoder uses the latents of rows, [len(rows), K]. It returns the reconstruction loss of each row
// by its own latent and by that of the next row (for the last row, the first row's), without word dropout -> [len(rows)] twice.
// If the two do not differ, the guide's distances mean nothing. For a single row they are equal.
func (g *Guide) ShuffledLoss(
	s *tensor.Scope, rows []models.Sequence, latents *tensor.Tensor, how models.Compute,
) (own, shuffled *tensor.Tensor) {
	next := make([]int64, len(rows))
	for i := range next {
		next[i] = int64((i + 1) % len(rows))
	}
	others := latents.IndexSelect(0, s.FromInt64(next, int64(len(next))))
	return g.Reconstruct(s, rows, latents, nil, how), g.Reconstruct(s, rows, others, nil, how)
}

// PackedTokens returns how many positions the decoder computes for rows, which bounds the memory of a step.
func (g *Guide) PackedTokens(rows []models.Sequence) int {
	n := 0
	for _, row := range rows {
		n += g.cfg.Config.Positions() + len(row.IDs) - 1
	}
	return n
}
