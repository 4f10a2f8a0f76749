package models_test

import (
	"context"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/tensor"
)

func TestScratchIsAFunctionOfItsSeed(t *testing.T) {
	ctx := context.Background()
	cfg := architecture.Config{Family: architecture.Llama, Vocab: 40, Hidden: 16, Layers: 2, Heads: 2, Intermediate: 24, MaxPositions: 32}
	weights := func(threads int, seed uint64) map[string][]byte {
		t.Helper()
		m, err := models.Scratch(ctx, newEngine(t, threads), cfg, seed)
		if err != nil {
			t.Fatal(err)
		}
		return bytesOf(t, m)
	}
	first := weights(1, 1)
	if diff := cmp.Diff(first, weights(2, 1)); diff != "" {
		t.Errorf("the same seed (-first +second):\n%s", diff)
	}
	if cmp.Equal(first, weights(1, 2)) {
		t.Error("another seed gives the same weights")
	}
	do(t, newEngine(t, 1), func(s *tensor.Scope) error {
		// On record: weights that were made once can be made again.
		got := models.Normal(s, 1, "model.embed_tokens.weight", 1, 4).Float32s()
		if diff := cmp.Diff([]float32{0.5526568, 0.20828864, -2.1433597, 2.2412772}, got); diff != "" {
			t.Errorf("first weights (-want +got):\n%s", diff)
		}
		return nil
	})
}

func TestScratchInitialisesLikeTheFamily(t *testing.T) {
	eng := newEngine(t, 1)
	for _, test := range []struct {
		family string
		want   map[string]float64 // standard deviation; -1: all ones
	}{
		{architecture.Llama, map[string]float64{
			"model.embed_tokens.weight": 0.02, "model.layers.0.self_attn.o_proj.weight": 0.02, "model.norm.weight": -1,
			"model.layers.1.mlp.down_proj.weight": 0.02, "model.layers.1.input_layernorm.weight": -1, "lm_head.weight": 0.02,
		}},
		{architecture.GPT2, map[string]float64{
			"transformer.wte.weight": 0.02, "transformer.wpe.weight": 0.02, "transformer.h.0.attn.c_attn.weight": 0.02,
			"transformer.h.0.attn.c_attn.bias": 0, "transformer.h.1.attn.c_proj.weight": 0.01,
			"transformer.h.1.mlp.c_proj.weight": 0.01, "transformer.h.1.mlp.c_fc.weight": 0.02, "transformer.ln_f.weight": -1,
			"transformer.ln_f.bias": 0, "lm_head.weight": 0.02,
		}},
	} {
		t.Run(test.family, func(t *testing.T) {
			m, err := models.Scratch(context.Background(), eng, architecture.Config{
				Family: test.family, Vocab: 200, Hidden: 64, Layers: 2, Heads: 4, Intermediate: 128, MaxPositions: 200,
			}, 1)
			if err != nil {
				t.Fatal(err)
			}
			do(t, eng, func(s *tensor.Scope) error {
				for name, want := range test.want {
					i := slices.IndexFunc(m.Params(), func(p tensor.Named) bool { return p.Name == name })
					if i < 0 {
						t.Errorf("no %s", name)
						continue
					}
					values := m.Params()[i].Tensor.Float64s()
					mean, square := 0.0, 0.0
					for _, v := range values {
						mean += v / float64(len(values))
						square += v * v / float64(len(values))
					}
					if want < 0 {
						if mean != 1 || square != 1 {
							t.Errorf("%s is not all ones", name)
						}
						continue
					}
					if std := math.Sqrt(square - mean*mean); math.Abs(std-want) > 0.05*want || math.Abs(mean) > 0.05*want {
						t.Errorf("%s: mean %g, deviation %g, want 0 and %g", name, mean, std, want)
					}
				}
				return nil
			})
		})
	}
}

func TestScratchRefuses(t *testing.T) {
	eng := newEngine(t, 1)
	for _, cfg := range []architecture.Config{
		{}, {Family: architecture.Llama}, {Family: "bert", Vocab: 4, Hidden: 4, Layers: 1, Heads: 1, Intermediate: 4, MaxPositions: 4},
	} {
		if _, err := models.Scratch(context.Background(), eng, cfg, 1); err == nil {
			t.Errorf("%+v makes a model", cfg)
		}
	}
}
