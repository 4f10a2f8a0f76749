// Package task holds what a phase minimises over its examples: the losses of pairs, of sequences, and of the guide.
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
	// Size is how many positions example i takes in the model.
	Size(i int) int
	// Accumulate runs forward and backward over part, which are some examples of the step's batch whole, and adds the
	// gradients of their share of the loss to those in the parameters. It returns the sums over part.
	Accumulate(s *tensor.Scope, part, whole []int, step int) (Sums, error)
}

// Sums are sums over examples of a step.
type Sums struct {
	// Loss is the examples' share of the step's loss.
	Loss  float64
	Pairs objective.Stats
	// Tokens went through the model, without padding; ResponseTokens are those that the loss is about.
	Tokens, ResponseTokens int
}

// Add adds the sums of other examples.
func (s *Sums) Add(o Sums) {
	s.Loss += o.Loss
	s.Pairs.Merge(o.Pairs)
	s.Tokens += o.Tokens
	s.ResponseTokens += o.ResponseTokens
}

// Compute is how a spec has the models computed in training.
func Compute(t schemas.TrainingSpec) models.Compute {
	return models.Compute{BFloat16: t.Precision == "bfloat16", Recompute: t.GradientCheckpointing}
}
