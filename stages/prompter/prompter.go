// Package prompter is the stage that starts an iteration: for policy checkpoint t it publishes the prompts of iteration t,
// each with its human response, so that later stages need not read the data.
package prompter

import (
	"context"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/dataset"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
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

// Load reads the records that a spec trains on. If the data provides the rejected responses, it takes only records with one.
func Load(spec schemas.Spec) (dataset.Set, error) {
	return dataset.Load(spec.Data.Train, dataset.Options{
		Columns: spec.Data.Columns, Limit: spec.Data.Limit, Subset: spec.Data.Subset, Seed: spec.Seed,
		Pairs: spec.GivenPairs(), Distances: spec.Objective.Distance == "given",
	})
}

// LoadEval reads the held-out records of a spec.
func LoadEval(spec schemas.Spec) (dataset.Set, error) {
	return dataset.Load(spec.Data.Eval, dataset.Options{Columns: spec.Data.Columns})
}

// Process turns each policy checkpoint that starts an iteration into that iteration's prompts, followed by the control
// message that says how many they are. Other checkpoints, such as the run's last policy, give nothing. The prompts and their
// order are a pure function of spec, iteration and records.
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
		p := &events.Prompt{
			Schema: events.Version, Run: run, Iteration: t, PairId: schemas.PairID(run, t, r.ID, place.Sample),
			PromptId: r.ID, Sample: place.Sample, Position: place.Position, Total: total,
			Prompt: r.Prompt, Response: r.Response, Rejected: r.Rejected, Distance: r.Distance,
			SampleSeed: schemas.SampleSeed(s.spec.Seed, t, r.ID, place.Sample), Checkpoint: c.GetDigest(),
		}
		// The data's log-probs are those of the first policy: they hold in iteration 0, or if it stays the reference.
		if r.Reference != nil && (t == 0 || s.spec.Objective.Reference == "initial") {
			p.ChosenLogp, p.RejectedLogp = &r.Reference[0], &r.Reference[1]
		}
		out = append(out, p)
	}
	return append(out, &events.Control{Schema: events.Version, Run: run, Kind: "closed", Iteration: t, Total: total})
}

// Samples is the number of pairs per prompt and iteration: a run that samples nothing sees each prompt once.
func Samples(spec schemas.Spec) int {
	if !spec.Samples() {
		return 1
	}
	return spec.Generation.SamplesPerPrompt
}
