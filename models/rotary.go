package models

import (
	"fmt"
	"math"

	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/tensor"
)

// rotary is the network of Llama and the families that descend from it: pre-norm blocks with RMSNorm, rotary positions,
// grouped-query attention and a gated feed-forward layer. What only some families have is nil in the others: biases, norms
// of the heads, norms after a layer, local layers with their own rotary embedding.
type rotary struct {
	cfg        architecture.Config
	tokens     *tensor.Tensor // [V, H]
	tokenScale float64        // of the embeddings
	layers     []rotaryLayer
	norm       rmsNorm
	output     *tensor.Tensor // [V, H]
	rope       *rope
	localRope  *rope // that of local layers; rope, if they share it
}

type rotaryLayer struct {
	attentionNorm, forwardNorm       rmsNorm // [H]
	attentionOutNorm, forwardOutNorm rmsNorm // [H], Traits.OutputNorms
	qNorm, kNorm                     rmsNorm // [D], Traits.HeadNorms
	q, k, v                          linear  // H -> Heads·D, KVHeads·D twice
	o                                linear  // Heads·D -> H
	gate, up                         linear  // H -> Intermediate
	down                             linear  // Intermediate -> H
	rope                             *rope
}

func newRotary(s *tensor.Scope, cfg architecture.Config, dtype tensor.DType, weights map[string]*tensor.Tensor) network {
	traits := cfg.Traits()
	norm := func(name string) rmsNorm {
		return rmsNorm{weight: weights[name+".weight"], offset: traits.NormOffset, eps: cfg.NormEps}
	}
	n := &rotary{
		cfg: cfg, tokens: weights["model.embed_tokens.weight"], tokenScale: 1, norm: norm("model.norm"),
		rope: newRope(s, cfg.Frequencies(), cfg.MaxPositions, dtype),
	}
	n.output, n.localRope = n.tokens, n.rope
	if !cfg.TieEmbeddings {
		n.output = weights["lm_head.weight"]
	}
	if traits.ScaledEmbeddings {
		n.tokenScale = rounded(math.Sqrt(float64(cfg.Hidden)), dtype)
	}
	if traits.LocalRope {
		n.localRope = newRope(s, cfg.LocalFrequencies(), cfg.MaxPositions, dtype)
	}
	for i := range cfg.Layers {
		at := fmt.Sprintf("model.layers.%d.", i)
		proj := func(name string) linear {
			return linear{weight: weights[at+name+".weight"], bias: weights[at+name+".bias"]}
		}
		layer := rotaryLayer{
			attentionNorm: norm(at + "input_layernorm"),
			forwardNorm:   norm(at + "post_attention_layernorm"),
			qNorm:         norm(at + "self_attn.q_norm"),
			kNorm:         norm(at + "self_attn.k_norm"),
			q:             proj("self_attn.q_proj"),
			k:             proj("self_attn.k_proj"),
			v:             proj("self_attn.v_proj"),
			o:             proj("self_attn.o_proj"),
			gate:          proj("mlp.gate_proj"),
			up:            proj("mlp.up_proj"),
			down:          proj("mlp.down_proj"),
			rope:          n.rope,
		}
		if traits.OutputNorms { // then post_attention_layernorm means what it says
			layer.attentionOutNorm = layer.forwardNorm
			layer.forwardNorm = norm(at + "pre_feedforward_layernorm")
			layer.forwardOutNorm = norm(at + "post_feedforward_layernorm")
		}
		if cfg.Local(i) {
			layer.rope = n.localRope
		}
		n.layers = append(n.layers, layer)
	}
	return n
}

// rounded is x as transformers rounds a constant to the type of the weights.
func rounded(x float64, dtype tensor.DType) float64 {
	x = float64(float32(x))
	bits := map[tensor.DType]int{tensor.BFloat16: 8, tensor.Float16: 11}[dtype]
	if bits == 0 {
		return x
	}
	fraction, exponent := math.Frexp(x)
	return math.Ldexp(math.RoundToEven(math.Ldexp(fraction, bits)), exponent-bits)
}

func (n *rotary) embed(ids *tensor.Tensor, p pass) *tensor.Tensor {
	x := p.embed(n.tokens, ids)
	if n.tokenScale != 1 {
		x = x.MulScalar(n.tokenScale)
	}
	return x
}

func (n *rotary) head() *tensor.Tensor { return n.output }

func (n *rotary) reach(s *tensor.Scope, length int) {
	n.rope.reach(s, length)
	n.localRope.reach(s, length)
}

func (n *rotary) constants() []*tensor.Tensor {
	list := []*tensor.Tensor{n.rope.cos, n.rope.sin}
	if n.localRope != n.rope {
		list = append(list, n.localRope.cos, n.localRope.sin)
	}
	return list
}

func (n *rotary) hidden(x *tensor.Tensor, p pass) *tensor.Tensor {
	cfg := n.cfg
	gate := p.siluMul
	if cfg.Traits().GELU {
		gate = p.geluMul
	}
	for i, layer := range n.layers {
		x = p.block(x, func(s *tensor.Scope, x *tensor.Tensor) *tensor.Tensor {
			h := p.rmsNorm(x, layer.attentionNorm)
			q := p.rmsNorm(splitHeads(p.linear(h, layer.q), cfg.Heads, cfg.HeadDim), layer.qNorm)
			k := p.rmsNorm(splitHeads(p.linear(h, layer.k), cfg.KVHeads, cfg.HeadDim), layer.kNorm)
			v := splitHeads(p.linear(h, layer.v), cfg.KVHeads, cfg.HeadDim)
			q, k = p.rotate(q, layer.rope), p.rotate(k, layer.rope)
			a := p.attend(s, i, q.Transpose(1, 2), k.Transpose(1, 2), v.Transpose(1, 2))
			x = x.Add(p.rmsNorm(p.linear(mergeHeads(a), layer.o), layer.attentionOutNorm))

			h = p.rmsNorm(x, layer.forwardNorm)
			h = p.linear(gate(p.linear(h, layer.gate), p.linear(h, layer.up)), layer.down)
			return x.Add(p.rmsNorm(h, layer.forwardOutNorm))
		})
	}
	return p.rmsNorm(x, n.norm)
}
