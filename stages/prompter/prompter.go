// Package prompter is the stage that starts an iteration: on policy checkpoint t it publishes the prompts of iteration t,
// each with its human response, so that later stages need no other source.
package prompter

import (
	"context"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/stages/dataset"
)

// Stage is the prompter of one run.
type Stage struct {
	spec    schemas.Spec
	records []dataset.Record
}

// New makes the stage for the run's records, in the order of their source.
func New(spec schemas.Spec, records []dataset.Record) *Stage {
	return &Stage{spec: spec, records: records}
}

// Load reads the records that a spec names: data.train cut to data.limit, and for dpo those with a rejected response.
func Load(spec schemas.Spec) (dataset.Set, error) {
	set, err := dataset.Load(spec.Data.Train)
	if err != nil {
		return set, err
	}
	if spec.Objective.Kind == "dpo" {
		if set, err = set.Annotated(); err != nil {
			return set, err
		}
	}
	return set.First(spec.Data.Limit), nil
}

// Process turns each policy checkpoint that starts an iteration into that iteration's prompts, followed by the control
// message that says how many they are. Other checkpoints, the run's last policy among them, start nothing. Which prompts,
// in which order, is a pure function of spec, iteration and records.
func (s *Stage) Process(_ context.Context, in []*events.Checkpoint) ([][]events.Message, []error) {
	out := make([][]events.Message, len(in))
	for i, c := range in {
		if checkpoints.Kind(c.GetKind()) == checkpoints.Policy && int(c.GetIteration()) < s.spec.Iterations {
			out[i] = s.iteration(c)
		}
	}
	return out, make([]error, len(in))
}

func (s *Stage) iteration(c *events.Checkpoint) []events.Message {
	run, t, samples := s.spec.Run, c.GetIteration(), Samples(s.spec)
	total := uint64(len(s.records) * samples)
	out := make([]events.Message, 0, total+1)
	for place := range dataset.Order(len(s.records), s.spec.Seed, t, samples) {
		r := s.records[place.Record]
		out = append(out, &events.Prompt{
			Schema: events.Version, Run: run, Iteration: t, PairId: schemas.PairID(run, t, r.ID, place.Sample),
			PromptId: r.ID, Sample: place.Sample, Position: place.Position, Total: total,
			Prompt: r.Prompt, Response: r.Response, Rejected: r.Rejected,
			SampleSeed: schemas.SampleSeed(s.spec.Seed, t, r.ID, place.Sample), Checkpoint: c.GetDigest(),
		})
	}
	return append(out, &events.Control{Schema: events.Version, Run: run, Kind: "closed", Iteration: t, Total: total})
}

// Samples is the number of pairs per prompt and iteration: objectives that sample nothing see each prompt once.
func Samples(spec schemas.Spec) int {
	if spec.Objective.Kind == "sft" || spec.Objective.Kind == "dpo" {
		return 1
	}
	return spec.Generation.SamplesPerPrompt
}
