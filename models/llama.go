package models

import (
	"fmt"

	"github.com/ldalign/ldalign/models/tensor"
)

// llama is the network of the Llama and Mistral families: pre-norm blocks with RMSNorm, rotary positions, grouped-query
// attention and a SwiGLU feed-forward layer, all without biases.
type llama struct {
	cfg    Config
	tokens *tensor.Tensor // [V, H]
	layers []llamaLayer
	norm   *tensor.Tensor // [H]
	output *tensor.Tensor // [V, H]
	rope   rope
}

type llamaLayer struct {
	attentionNorm, forwardNorm *tensor.Tensor // [H]
	q, k, v                    linear         // H -> Heads·D, KVHeads·D twice
	o                          linear         // Heads·D -> H
	gate, up                   linear         // H -> Intermediate
	down                       linear         // Intermediate -> H
}

func llamaWeights(cfg Config) []weight {
	h, std := int64(cfg.Hidden), cfg.InitializerRange
	q, kv, inner := int64(cfg.Heads*cfg.HeadDim), int64(cfg.KVHeads*cfg.HeadDim), int64(cfg.Intermediate)
	list := []weight{{name: "model.embed_tokens.weight", shape: []int64{int64(cfg.Vocab), h}, std: std}}
	for i := range cfg.Layers {
		at := fmt.Sprintf("model.layers.%d.", i)
		list = append(list,
			weight{name: at + "input_layernorm.weight", shape: []int64{h}, fill: 1},
			weight{name: at + "self_attn.q_proj.weight", shape: []int64{q, h}, std: std},
			weight{name: at + "self_attn.k_proj.weight", shape: []int64{kv, h}, std: std},
			weight{name: at + "self_attn.v_proj.weight", shape: []int64{kv, h}, std: std},
			weight{name: at + "self_attn.o_proj.weight", shape: []int64{h, q}, std: std},
			weight{name: at + "post_attention_layernorm.weight", shape: []int64{h}, fill: 1},
			weight{name: at + "mlp.gate_proj.weight", shape: []int64{inner, h}, std: std},
			weight{name: at + "mlp.up_proj.weight", shape: []int64{inner, h}, std: std},
			weight{name: at + "mlp.down_proj.weight", shape: []int64{h, inner}, std: std},
		)
	}
	list = append(list, weight{name: "model.norm.weight", shape: []int64{h}, fill: 1})
	if !cfg.TieEmbeddings {
		list = append(list, weight{name: "lm_head.weight", shape: []int64{int64(cfg.Vocab), h}, std: std})
	}
	return list
}

func newLlama(s *tensor.Scope, cfg Config, dtype tensor.DType, weights map[string]*tensor.Tensor) *llama {
	l := &llama{
		cfg: cfg, tokens: weights["model.embed_tokens.weight"], norm: weights["model.norm.weight"],
		rope: newRope(s, cfg.RopeTheta, cfg.HeadDim, cfg.MaxLength(), dtype),
	}
	l.output = l.tokens
	if !cfg.TieEmbeddings {
		l.output = weights["lm_head.weight"]
	}
	for i := range cfg.Layers {
		at := fmt.Sprintf("model.layers.%d.", i)
		proj := func(name string) linear { return linear{weight: weights[at+name+".weight"]} }
		l.layers = append(l.layers, llamaLayer{
			attentionNorm: weights[at+"input_layernorm.weight"],
			forwardNorm:   weights[at+"post_attention_layernorm.weight"],
			q:             proj("self_attn.q_proj"),
			k:             proj("self_attn.k_proj"),
			v:             proj("self_attn.v_proj"),
			o:             proj("self_attn.o_proj"),
			gate:          proj("mlp.gate_proj"),
			up:            proj("mlp.up_proj"),
			down:          proj("mlp.down_proj"),
		})
	}
	return l
}

func (l *llama) embed(ids *tensor.Tensor, p pass) *tensor.Tensor { return p.embed(l.tokens, ids) }

func (l *llama) head() *tensor.Tensor { return l.output }

func (l *llama) constants() []*tensor.Tensor { return []*tensor.Tensor{l.rope.cos, l.rope.sin} }

func (l *llama) hidden(x *tensor.Tensor, p pass) *tensor.Tensor {
	cfg := l.cfg
	for i, layer := range l.layers {
		h := p.rmsNorm(x, layer.attentionNorm, cfg.NormEps)
		q := p.rotate(splitHeads(p.linear(h, layer.q), cfg.Heads, cfg.HeadDim), l.rope)
		k := p.rotate(splitHeads(p.linear(h, layer.k), cfg.KVHeads, cfg.HeadDim), l.rope)
		v := splitHeads(p.linear(h, layer.v), cfg.KVHeads, cfg.HeadDim)
		a := p.attend(i, q.Transpose(1, 2), k.Transpose(1, 2), v.Transpose(1, 2))
		x = x.Add(p.linear(mergeHeads(a), layer.o))

		h = p.rmsNorm(x, layer.forwardNorm, cfg.NormEps)
		x = x.Add(p.linear(p.siluMul(p.linear(h, layer.gate), p.linear(h, layer.up)), layer.down))
	}
	return p.rmsNorm(x, l.norm, cfg.NormEps)
}
