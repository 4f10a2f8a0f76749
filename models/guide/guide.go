// Package guide is the guiding model of LD-Align: an auto-encoder over responses. The encoder phi reads a prompt x
// with a response y and gives a latent h; the decoder psi reconstructs y from x and h. Distances between latents then
// say how far a sampled response is from the human one.
//
// Encoder and decoder are language models of any family. The encoder's last hidden states are pooled over the response
// (a causal encoder's prompt positions have not seen it) and mapped to [K]. The decoder sees h in one of three ways: as a
// soft prefix, h mapped to a few input embeddings in front of the prompt; as a memory, h mapped to one more key and value in
// every layer; or added to every token's embedding. It sees the response's earlier tokens too, so it could ignore h; hiding
// some of them (word dropout) makes it need h, and ShuffledLoss tells whether it does.
//
// As in package models, a row's numbers depend on the row and on the shape alone (models.PadRule).
package guide

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
)

// How the encoder's hidden states become one vector.
const (
	PoolMean      = "mean"      // their mean over the response's tokens
	PoolLast      = "last"      // that of the response's last token
	PoolAttention = "attention" // their mean by softmax over the response of gelu(w·state), w learned from 0: a mean at first
)

// How the decoder gets the latent.
const (
	InjectPrefix    = "prefix"    // PrefixTokens input embeddings in front of the prompt
	InjectMemory    = "memory"    // one vector a layer, as a key and as its value (models.Model.HiddenWith)
	InjectEmbedding = "embedding" // one vector, added to the embedding of every token
)

// How a row's reconstruction loss adds up.
const (
	ReduceMean = "mean" // mean over the response's tokens: rows weigh the same whatever their length
	ReduceSum  = "sum"  // sum, as equation (2) is written
)

// ErrConfig means a configuration that makes no guide.
var ErrConfig = errors.New("guide: config")

// Config describes a guide beside its two models.
type Config struct {
	LatentDim    int     `json:"latent_dim"`    // K
	Pooling      string  `json:"pooling"`       // PoolMean, PoolLast or PoolAttention
	Injection    string  `json:"injection"`     // InjectPrefix, which none stands for too, InjectMemory or InjectEmbedding
	PrefixTokens int     `json:"prefix_tokens"` // P, the positions of a soft prefix
	WordDropout  float64 `json:"word_dropout"`  // the rate at which response tokens are hidden from the decoder's input
	Reduction    string  `json:"reduction"`     // ReduceMean or ReduceSum
}

// Validate tells what is wrong. The error wraps ErrConfig.
func (c Config) Validate() error {
	injection := c.injection()
	switch {
	case c.LatentDim < 1 || injection == InjectPrefix && c.PrefixTokens < 1:
		return fmt.Errorf("%w: latent_dim %d and prefix_tokens %d must be at least 1", ErrConfig, c.LatentDim, c.PrefixTokens)
	case c.Pooling != PoolMean && c.Pooling != PoolLast && c.Pooling != PoolAttention:
		return fmt.Errorf("%w: pooling %q is neither mean, last nor attention", ErrConfig, c.Pooling)
	case injection != InjectPrefix && injection != InjectMemory && injection != InjectEmbedding:
		return fmt.Errorf("%w: injection %q is neither prefix, memory nor embedding", ErrConfig, c.Injection)
	case c.Reduction != ReduceMean && c.Reduction != ReduceSum:
		return fmt.Errorf("%w: reduction %q is neither mean nor sum", ErrConfig, c.Reduction)
	case !(c.WordDropout >= 0 && c.WordDropout < 1):
		return fmt.Errorf("%w: word_dropout %g is not in [0, 1)", ErrConfig, c.WordDropout)
	}
	return nil
}

// injection is Injection, with its default.
func (c Config) injection() string {
	if c.Injection == "" {
		return InjectPrefix
	}
	return c.Injection
}

// Positions is how many of the decoder's positions the latent takes.
func (c Config) Positions() int {
	if c.injection() == InjectPrefix {
		return c.PrefixTokens
	}
	return 0
}

// Guide is an encoder with its decoder. Methods that take a context use the engine themselves; methods that take a
// scope are called inside Engine.Do.
type Guide struct {
	cfg              Config
	encoder, decoder *models.Model
	// own are the weights beside those of the two models, as shapes lists them.
	own []tensor.Named
}

// The names of the guide's own weights, beside encoder.* and decoder.*. The latent is a linear layer H of the encoder -> K;
// pooling is the w of PoolAttention; prefix is a linear layer K -> P·H of the decoder, memory one K -> Layers·KVHeads·D and
// embedding one K -> H, both without a bias; hidden_token, [H of the decoder], stands for a token that word dropout hides.
const (
	poolingName   = "pooling.weight"
	latentName    = "latent"
	prefixName    = "prefix"
	memoryName    = "memory.weight"
	embeddingName = "embedding.weight"
	hiddenName    = "hidden_token"
)

// weight is one of the guide's own weights; nil when this guide has none of that name.
func (g *Guide) weight(name string) *tensor.Tensor {
	for _, w := range g.own {
		if w.Name == name {
			return w.Tensor
		}
	}
	return nil
}

// apply is a linear layer of the guide's own.
func (g *Guide) apply(name string, x *tensor.Tensor) *tensor.Tensor {
	return x.Linear(g.weight(name+".weight"), g.weight(name+".bias"))
}

// New makes a guide whose projections between the models are random: a function of the seed. Both models must live on
// one engine; with success they belong to the guide, which closes them.
func New(ctx context.Context, encoder, decoder *models.Model, cfg Config, seed uint64) (*Guide, error) {
	if err := fits(encoder, decoder, cfg); err != nil {
		return nil, err
	}
	g := &Guide{cfg: cfg, encoder: encoder, decoder: decoder}
	err := encoder.Engine().Do(ctx, func(s *tensor.Scope) error {
		own := map[string]*tensor.Tensor{}
		for _, w := range g.shapes() {
			switch w.name {
			case latentName + ".weight": // latents of the hidden states' own scale
				own[w.name] = models.Normal(s, seed, w.name, 1/math.Sqrt(float64(encoder.Config().Hidden)), w.shape...)
			case prefixName + ".weight", memoryName, embeddingName, hiddenName: // of the size of the decoder's own embeddings
				own[w.name] = models.Normal(s, seed, w.name, decoder.Config().InitializerRange, w.shape...)
			default:
				own[w.name] = s.Zeros(tensor.Float32, w.shape...)
			}
			own[w.name] = own[w.name].To(encoder.DType())
		}
		g.keep(own)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("guide: new: %w", err)
	}
	return g, nil
}

func fits(encoder, decoder *models.Model, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	switch {
	case encoder == decoder:
		return fmt.Errorf("%w: encoder and decoder are the same model: give each its own", ErrConfig)
	case encoder.Engine() != decoder.Engine():
		return fmt.Errorf("%w: encoder and decoder live on different engines", ErrConfig)
	case encoder.DType() != decoder.DType():
		return fmt.Errorf("%w: the encoder computes in %v, the decoder in %v", ErrConfig, encoder.DType(), decoder.DType())
	case encoder.Config().Vocab != decoder.Config().Vocab:
		return fmt.Errorf("%w: the encoder's vocabulary has %d tokens, the decoder's %d: they must read the same ids",
			ErrConfig, encoder.Config().Vocab, decoder.Config().Vocab)
	case decoder.Config().MaxLength() <= cfg.Positions():
		return fmt.Errorf("%w: a prefix of %d leaves nothing of the decoder's %d positions",
			ErrConfig, cfg.PrefixTokens, decoder.Config().MaxLength())
	}
	return nil
}

// ownWeight is one of the guide's own weights.
type ownWeight struct {
	name  string
	shape []int64
}

// shapes are the guide's own weights, in their order.
func (g *Guide) shapes() []ownWeight {
	decoder, k := g.decoder.Config(), int64(g.cfg.LatentDim)
	width, states := int64(decoder.Hidden), int64(g.encoder.Config().Hidden)
	list := []ownWeight{{latentName + ".weight", []int64{k, states}}, {latentName + ".bias", []int64{k}}}
	switch g.cfg.injection() {
	case InjectMemory:
		list = append(list, ownWeight{memoryName, []int64{int64(decoder.Layers * decoder.KVHeads * decoder.HeadDim), k}})
	case InjectEmbedding:
		list = append(list, ownWeight{embeddingName, []int64{width, k}})
	default:
		list = append(list, ownWeight{prefixName + ".weight", []int64{int64(g.cfg.PrefixTokens) * width, k}},
			ownWeight{prefixName + ".bias", []int64{int64(g.cfg.PrefixTokens) * width}})
	}
	if g.cfg.Pooling == PoolAttention {
		list = append(list, ownWeight{poolingName, []int64{states}})
	}
	if g.cfg.WordDropout > 0 {
		list = append(list, ownWeight{hiddenName, []int64{width}})
	}
	return list
}

// keep takes the guide's own weights.
func (g *Guide) keep(weights map[string]*tensor.Tensor) {
	for _, w := range g.shapes() {
		g.own = append(g.own, tensor.Named{Name: w.name, Tensor: weights[w.name].Keep()})
	}
}

// Params are all weights that the loss depends on, in a fixed order: encoder.*, decoder.*, then the projections. An
// encoder's untied output head is not among them: nothing reads it.
func (g *Guide) Params() []tensor.Named {
	var list []tensor.Named
	for _, part := range []struct {
		prefix string
		model  *models.Model
	}{{encoderPrefix, g.encoder}, {decoderPrefix, g.decoder}} {
		for _, p := range part.model.Params() {
			if part.model == g.encoder && p.Name == "lm_head.weight" {
				continue
			}
			list = append(list, tensor.Named{Name: part.prefix + p.Name, Tensor: p.Tensor})
		}
	}
	return append(list, g.own...)
}

// SetTrainable says whether gradients are computed for the Params.
func (g *Guide) SetTrainable(ctx context.Context, on bool) error {
	return g.Engine().Do(ctx, func(*tensor.Scope) error {
		for _, p := range g.Params() {
			p.Tensor.RequiresGrad_(on)
		}
		return nil
	})
}

// Engine is the engine that the guide lives on.
func (g *Guide) Engine() *tensor.Engine { return g.encoder.Engine() }

// Config is the guide's configuration.
func (g *Guide) Config() Config { return g.cfg }

// MaxLength is the greatest number of tokens of prompt and response together.
func (g *Guide) MaxLength() int {
	return min(g.encoder.Config().MaxLength(), g.decoder.Config().MaxLength()-g.cfg.Positions())
}

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

// Encode is h = phi(x, y) of each row -> [pad.Rows, K]. Every row must have a response; the rows that pad adds hold
// nothing of use.
func (g *Guide) Encode(s *tensor.Scope, rows []models.Sequence, pad models.PadRule) *tensor.Tensor {
	ids, err := pad.Pad(rows)
	if err != nil {
		s.Fail(err)
		return s.Zeros(tensor.Float32) // invalid, as everything in a failed scope
	}
	count, length := int64(pad.Rows), int64(pad.Length)
	share := make([]float32, pad.Rows*pad.Length) // of each position in the pooled vector
	for i, row := range rows {
		n := len(row.IDs) - row.PromptLen
		if n < 1 {
			s.Fail(fmt.Errorf("%w: row %d has no response to encode", models.ErrSequence, i))
			break
		}
		from := row.PromptLen
		if g.cfg.Pooling == PoolLast {
			from, n = len(row.IDs)-1, 1
		}
		for t := from; t < len(row.IDs); t++ {
			share[i*pad.Length+t] = 1 / float32(n)
		}
	}
	h := g.encoder.Hidden(s, g.encoder.Embed(s, s.FromInt64(ids, count, length)))
	weights := s.FromFloat32(share, count, length, 1).To(g.encoder.DType())
	if g.cfg.Pooling == PoolAttention {
		weights = g.attention(s, h, share)
	}
	return g.apply(latentName, h.Mul(weights).SumDims(false, 1))
}

// attention are the weights of PoolAttention: h [B, T, H] -> [B, T, 1], 0 outside of the response, where share is 0.
func (g *Guide) attention(s *tensor.Scope, h *tensor.Tensor, share []float32) *tensor.Tensor {
	outside := make([]float32, len(share))
	for i, x := range share {
		if x == 0 {
			outside[i] = -1e30 // finite: a row that pad adds has nothing else
		}
	}
	scores := h.Mul(g.weight(poolingName)).SumDims(true, 2).Gelu()
	mask := s.FromFloat32(outside, scores.Size(0), scores.Size(1), 1).To(g.encoder.DType())
	return scores.Add(mask).Softmax(1)
}

// Reconstruct is -log p_psi(y | x, h) of each row over its response's tokens, reduced by Config.Reduction: latents
// [pad.Rows, K] -> [pad.Rows]; 0 for rows that pad adds. drop holds one seed per row, which decides the tokens that
// word dropout hides from the decoder's input; nil hides none.
func (g *Guide) Reconstruct(
	s *tensor.Scope, rows []models.Sequence, pad models.PadRule, latents *tensor.Tensor, drop []uint64,
) *tensor.Tensor {
	ids, err := pad.Pad(rows)
	if err == nil && drop != nil && len(drop) != len(rows) {
		err = fmt.Errorf("guide: %d dropout seeds for %d rows", len(drop), len(rows))
	}
	if err != nil {
		s.Fail(err)
		return s.Zeros(tensor.Float32) // invalid, as everything in a failed scope
	}
	count, length, width := int64(pad.Rows), int64(pad.Length), int64(g.decoder.Config().Hidden)
	text := g.decoder.Embed(s, s.FromInt64(ids, count, length))
	if hidden := g.weight(hiddenName); drop != nil && hidden != nil {
		mask := s.FromFloat32(g.dropped(rows, pad, drop), count, length, 1).To(g.decoder.DType())
		text = text.Add(mask.Mul(hidden.Sub(text)))
	}
	var h *tensor.Tensor
	switch g.cfg.injection() {
	case InjectMemory:
		memory := latents.Linear(g.weight(memoryName), nil)
		h = g.decoder.HiddenWith(s, text, memory.Reshape(count, int64(g.decoder.Config().Layers), -1))
	case InjectEmbedding:
		h = g.decoder.Hidden(s, text.Add(latents.Linear(g.weight(embeddingName), nil).Unsqueeze(1)))
	default:
		prefix := g.apply(prefixName, latents).Reshape(count, int64(g.cfg.PrefixTokens), width)
		h = g.decoder.Hidden(s, s.Cat(1, prefix, text))
	}
	loss := g.decoder.TrainResponseLogProbs(s, h, rows, g.cfg.Positions()).SumDims(false, 1).Neg()
	if g.cfg.Reduction == ReduceSum {
		return loss
	}
	scale := make([]float64, pad.Rows)
	for i, row := range rows {
		scale[i] = 1 / float64(max(len(row.Response()), 1))
	}
	return loss.Mul(s.FromFloat64(scale, count).To(loss.DType()))
}

// dropped is 1 where a response token is hidden, else 0: [pad.Rows·pad.Length].
func (g *Guide) dropped(rows []models.Sequence, pad models.PadRule, seeds []uint64) []float32 {
	mask := make([]float32, pad.Rows*pad.Length)
	for i, row := range rows {
		for t := range row.Response() {
			if models.Uniform(seeds[i], t) < g.cfg.WordDropout {
				mask[i*pad.Length+row.PromptLen+t] = 1
			}
		}
	}
	return mask
}

// Loss is the reconstruction loss of each row by its own latent, with word dropout -> [pad.Rows]. Equation (2) is the
// mean over pairs of the sum of the losses of (x, y) and (x, y'): give both as rows. Row i draws its dropout from seed
// and i. Its gradients are those that Backward adds, see models.TrainResponseLogProbs.
func (g *Guide) Loss(s *tensor.Scope, rows []models.Sequence, pad models.PadRule, seed uint64) *tensor.Tensor {
	drop := make([]uint64, len(rows))
	for i := range drop {
		drop[i] = seed + uint64(i)
	}
	return g.Reconstruct(s, rows, pad, g.Encode(s, rows, pad), drop)
}

// ShuffledLoss tells whether the decoder uses the latent: the reconstruction loss of each row by its own latent and by
// that of the next row (the last takes the first's), without word dropout -> [pad.Rows] twice. With one row both are
// equal. No difference means that the guide's distances mean nothing.
func (g *Guide) ShuffledLoss(s *tensor.Scope, rows []models.Sequence, pad models.PadRule) (own, shuffled *tensor.Tensor) {
	latents := g.Encode(s, rows, pad)
	next := make([]int64, pad.Rows)
	for i := range next {
		next[i] = int64(i)
		if i < len(rows) {
			next[i] = int64((i + 1) % len(rows))
		}
	}
	others := latents.IndexSelect(0, s.FromInt64(next, int64(len(next))))
	return g.Reconstruct(s, rows, pad, latents, nil), g.Reconstruct(s, rows, pad, others, nil)
}
