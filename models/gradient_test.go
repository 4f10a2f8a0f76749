package models_test

import (
	"context"
	"fmt"
	"math"
	"testing"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
)

// The gradients of LogProbs, against which TestTrainLogProbs holds those of training, equal central differences, for an element
// of every weight of every family, in rows that are longer than the windows.
func TestLogProbsGradients(t *testing.T) {
	for _, name := range []string{
		"llama", "llama-linear-bias", "mistral-window", "qwen2-window-bf16", "qwen3-shards", "gemma3", "gemma3-bf16", "gpt2",
	} {
		t.Run(name, func(t *testing.T) {
			eng := newEngine(t, 1)
			m, g := loadGolden(t, eng, name, tensor.Float64), readGolden(t, name)
			if err := m.SetTrainable(context.Background(), true); err != nil {
				t.Fatal(err)
			}
			rows := g.rows()[:2]
			loss := func(s *tensor.Scope) *tensor.Tensor {
				logp := models.LogProbs(s, m, rows)
				return logp.Mul(s.FromFloat64([]float64{1, -0.5}, 2)).Sum()
			}
			checkGradients(t, eng, m.Params(), loss)
		})
	}
}

// checkGradients compares the gradient of loss with central differences at one element of every parameter: the one
// with the greatest gradient.
func checkGradients(t *testing.T, eng *tensor.Engine, params []tensor.Named, loss func(s *tensor.Scope) *tensor.Tensor) {
	t.Helper()
	tensors := make([]*tensor.Tensor, len(params))
	for i, p := range params {
		tensors[i] = p.Tensor
	}
	var grads [][]float64
	do(t, eng, func(s *tensor.Scope) error {
		loss(s).Backward()
		for _, x := range tensors {
			grads = append(grads, x.Grad().Float64s())
		}
		tensor.FreeGrads(s, tensors)
		return nil
	})
	for i, p := range params {
		at := 0
		for j, g := range grads[i] {
			if math.Abs(g) > math.Abs(grads[i][at]) {
				at = j
			}
		}
		do(t, eng, func(s *tensor.Scope) error {
			return s.NoGrad(func(s *tensor.Scope) error {
				const step = 1e-5
				element := p.Tensor.Detach().Reshape(-1).Narrow(0, int64(at), 1)
				was := element.Item()
				element.Fill_(was + step)
				up := loss(s).Item()
				element.Fill_(was - step)
				down := loss(s).Item()
				element.Fill_(was)
				want, got := (up-down)/(2*step), grads[i][at]
				if math.Abs(want-got) > 1e-6*max(1, math.Abs(want)) || got == 0 {
					return fmt.Errorf("%s, element %d: gradient %g, by differences %g", p.Name, at, got, want)
				}
				return nil
			})
		})
	}
}
