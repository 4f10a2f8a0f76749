package models

import (
	"fmt"

	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/tensor"
)

// gpt2 is the network of the GPT-2 family: pre-norm blocks with LayerNorm, learned positions, biases everywhere. Its
// linear layers store their weights as [In, Out].
type gpt2 struct {
	cfg       architecture.Config
	tokens    *tensor.Tensor // [V, H]
	positions *tensor.Tensor // [MaxPositions, H]
	layers    []gpt2Layer
	norm      affine         // [H]
	output    *tensor.Tensor // [V, H]
}

type gpt2Layer struct {
	attentionNorm, forwardNorm affine // [H]
	qkv                        linear // H -> 3H
	attentionOut               linear // H -> H
	in, out                    linear // H -> Intermediate -> H
}

// affine is the weight and the bias of a LayerNorm.
type affine struct{ weight, bias *tensor.Tensor }

func (a affine) normalise(x *tensor.Tensor, eps float64) *tensor.Tensor {
	return x.LayerNorm(a.weight, a.bias, eps)
}

func newGPT2(_ *tensor.Scope, cfg architecture.Config, _ tensor.DType, weights map[string]*tensor.Tensor) network {
	norm := func(name string) affine { return affine{weights[name+".weight"], weights[name+".bias"]} }
	conv := func(name string) linear {
		return linear{weight: weights[name+".weight"], bias: weights[name+".bias"], inFirst: true}
	}
	g := &gpt2{
		cfg: cfg, tokens: weights["transformer.wte.weight"], positions: weights["transformer.wpe.weight"],
		norm: norm("transformer.ln_f"),
	}
	g.output = g.tokens
	if !cfg.TieEmbeddings {
		g.output = weights["lm_head.weight"]
	}
	for i := range cfg.Layers {
		at := fmt.Sprintf("transformer.h.%d.", i)
		g.layers = append(g.layers, gpt2Layer{
			attentionNorm: norm(at + "ln_1"),
			qkv:           conv(at + "attn.c_attn"),
			attentionOut:  conv(at + "attn.c_proj"),
			forwardNorm:   norm(at + "ln_2"),
			in:            conv(at + "mlp.c_fc"),
			out:           conv(at + "mlp.c_proj"),
		})
	}
	return g
}

func (g *gpt2) embed(ids *tensor.Tensor, p pass) *tensor.Tensor { return p.embed(g.tokens, ids) }

func (g *gpt2) head() *tensor.Tensor { return g.output }

func (g *gpt2) reach(*tensor.Scope, int) {}

func (g *gpt2) constants() []*tensor.Tensor { return nil }

func (g *gpt2) hidden(x *tensor.Tensor, p pass) *tensor.Tensor {
	cfg, width := g.cfg, int64(g.cfg.Hidden)
	if p.positions == nil {
		x = x.Add(g.positions.Narrow(0, 0, x.Size(1)))
	} else {
		x = x.Add(g.positions.Embedding(p.positions).Unsqueeze(1).To(x.DType()))
	}
	for i, layer := range g.layers {
		x = p.block(x, func(s *tensor.Scope, x *tensor.Tensor) *tensor.Tensor {
			qkv := p.linear(layer.attentionNorm.normalise(x, cfg.NormEps), layer.qkv)
			part := func(n int64) *tensor.Tensor {
				return splitHeads(qkv.Narrow(-1, n*width, width), cfg.Heads, cfg.HeadDim).Transpose(1, 2)
			}
			a := p.attend(s, i, part(0), part(1), part(2))
			x = x.Add(p.linear(mergeHeads(a), layer.attentionOut))
			return x.Add(p.linear(p.linear(layer.forwardNorm.normalise(x, cfg.NormEps), layer.in).GeluTanh(), layer.out))
		})
	}
	return g.norm.normalise(x, cfg.NormEps)
}
