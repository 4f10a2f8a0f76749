// Package task defines what a phase minimises over its examples: the losses of pairs, of sequences, and of the guide.
package task

import (
	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/objective"
)

// Task is a loss over examples. More examples may be added while a phase is under way.
type Task interface {
	// Len is the number of examples.
	Len() int
	// Size is the number of positions of example i in the model.
	Size(i int) int
	// Accumulate runs the forward and backward pass over part, some of the examples of the step's batch whole, and adds the
	// gradients of their share of the loss to those of the parameters. It returns the sums over part.
	Accumulate(s *tensor.Scope, part, whole []int, step int) (Sums, error)
}

// Sums contains sums over examples of a step.
type Sums struct {
	// Loss is the examples' share of the step's loss.
	Loss  float64
	Pairs objective.Stats
	// Tokens is the number of tokens that went through the model, without padding; ResponseTokens of them are in the loss.
	Tokens, ResponseTokens int
}

// Add adds the sums of other examples.
func (s *Sums) Add(o Sums) {
	s.Loss += o.Loss
	s.Pairs.Merge(o.Pairs)
	s.Tokens += o.Tokens
	s.ResponseTokens += o.ResponseTokens
}

// Compute returns how the spec wants the models to be computed in training.
func Compute(t schemas.TrainingSpec) models.Compute {
	return models.Compute{BFloat16: t.Precision == "bfloat16", Recompute: t.GradientCheckpointing}
}
