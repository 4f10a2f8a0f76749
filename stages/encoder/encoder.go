// Package encoder is the stage that computes the latents h = phi(x,y) and h' = phi(x,y') with the frozen guide.
package encoder

import (
	"context"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models/guide"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// Stage is the encoder of one run. It waits for the run's guide in Ready, or when it gets its first pair.
type Stage struct {
	spec        schemas.Spec
	checkpoints *checkpoints.Repository
	engine      *tensor.Engine

	guide *Guide
	// chosen keeps phi(x,y) per prompt id: y is the same in every iteration and for every sample, so it is encoded once.
	// It grows with the prompt set: K float32 numbers for each.
	chosen map[string][]float32
}

// New makes the stage.
func New(spec schemas.Spec, repository *checkpoints.Repository, engine *tensor.Engine) *Stage {
	return &Stage{spec: spec, checkpoints: repository, engine: engine, chosen: map[string][]float32{}}
}

// Close frees the guide.
func (s *Stage) Close(ctx context.Context) error {
	if s.guide == nil {
		return nil
	}
	return s.guide.Close(ctx)
}

// Process encodes the pairs. An error of the guide or the store concerns the whole batch. If the run needs no guide, pairs
// pass without latents.
func (s *Stage) Process(ctx context.Context, in []*events.Pair) ([]*events.Encoded, []error) {
	out, errs := make([]*events.Encoded, len(in)), make([]error, len(in))
	if !s.spec.NeedsGuide() {
		for i, pair := range in {
			out[i] = &events.Encoded{Schema: events.Version, Pair: pair}
		}
		return out, errs
	}
	chosen, rejected, err := s.latents(ctx, in)
	for i, pair := range in {
		if err != nil {
			errs[i] = err
			continue
		}
		out[i] = &events.Encoded{
			Schema: events.Version, Pair: pair, ChosenLatent: chosen[i], RejectedLatent: rejected[i], Guide: s.guide.Digest,
		}
	}
	return out, errs
}

// latents of both responses of each pair.
func (s *Stage) latents(ctx context.Context, in []*events.Pair) (chosen, rejected [][]float32, err error) {
	if err := s.Ready(ctx); err != nil { // no fault of the pairs
		return nil, nil, &schemas.Unavailable{Err: err}
	}
	var texts []guide.Text
	var fresh []string
	seen := map[string]bool{}
	for _, p := range in {
		id := p.GetPrompt().GetPromptId()
		if _, ok := s.chosen[id]; ok || seen[id] {
			continue
		}
		seen[id] = true
		fresh = append(fresh, id)
		texts = append(texts, guide.Text{
			Prompt: p.GetPrompt().GetPrompt(), Response: p.GetPrompt().GetResponse(),
			PromptIDs: p.GetPromptIds(), ResponseIDs: p.GetChosenIds(),
		})
	}
	for _, p := range in {
		texts = append(texts, guide.Text{
			Prompt: p.GetPrompt().GetPrompt(), Response: p.GetRejected(),
			PromptIDs: p.GetPromptIds(), ResponseIDs: p.GetRejectedIds(),
		})
	}
	latents, err := s.guide.Latents(ctx, texts)
	if err != nil {
		return nil, nil, err
	}
	for k, id := range fresh {
		s.chosen[id] = latents[k]
	}
	chosen = make([][]float32, len(in))
	for i, p := range in {
		chosen[i] = s.chosen[p.GetPrompt().GetPromptId()]
	}
	return chosen, latents[len(fresh):], nil
}

// Ready waits until the run's guide is in memory. Process does the same. Call Ready first to stop waiting as soon as ctx
// ends: the context of Process ends only after a grace period.
func (s *Stage) Ready(ctx context.Context) error {
	if s.guide != nil || !s.spec.NeedsGuide() {
		return nil
	}
	manifest, err := WaitForGuide(ctx, s.checkpoints, s.spec.GuideRun(s.spec.Guide.From))
	if err != nil {
		return err
	}
	s.guide, err = LoadGuide(ctx, s.spec, s.checkpoints, s.engine, manifest)
	return err
}
