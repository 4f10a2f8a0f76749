//go:build cgo

package pipeline

import (
	"context"

	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/stages/encoder"
	"github.com/ldalign/ldalign/stages/evaluator"
	"github.com/ldalign/ldalign/stages/generator"
	"github.com/ldalign/ldalign/stages/prompter"
	"github.com/ldalign/ldalign/streams"
)

// Engine is the tensor engine with which stages compute.
type Engine = tensor.Engine

// computed completes a stage that computes tensors.
func computed(w Work) (_ Work, err error) {
	w.Libtorch, err = tensor.Version()
	return w, err
}

func buildGenerator(_ context.Context, j Job) (Work, error) {
	s := generator.New(j.Spec, j.Checkpoints, j.Engine)
	s.Progress = j.Sampled
	return computed(Work{
		Refilling: streams.EachRefilling(s.Process),
		Close:     s.Close,
		Adopt: func(m events.Message, iteration uint32, policy string) {
			if p, ok := m.(*events.Prompt); ok {
				p.Checkpoint = policy
				p.SampleSeed = schemas.SampleSeed(j.Spec.Seed, iteration, p.GetPromptId(), p.GetSample())
			}
		},
	})
}

func buildEncoder(_ context.Context, j Job) (Work, error) {
	s := encoder.New(j.Spec, j.Checkpoints, j.Engine)
	return computed(Work{
		Process: streams.Each(s.Process), Ready: s.Ready, WaitsFor: "for the guide's checkpoint", Close: s.Close,
	})
}

func buildEvaluator(_ context.Context, j Job) (Work, error) {
	set, err := prompter.LoadEval(j.Spec)
	if err != nil {
		return Work{}, err
	}
	s := evaluator.New(j.Spec, set.Records, j.Checkpoints, j.Engine)
	return computed(Work{
		Process: streams.Each(s.Process), Ready: s.Ready, WaitsFor: "for a guide's checkpoint", Close: s.Close,
	})
}
