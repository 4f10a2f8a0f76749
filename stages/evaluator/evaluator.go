// Package evaluator is the stage that measures policy checkpoints on held-out prompts: greedy and sampled scores, and the
// mean latent distance of the samples from the human responses. It also stores the details of every answer, from which the
// report computes the paper's two-sample agreement test.
package evaluator

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/dataset"
	"github.com/ldalign/ldalign/models/decode"
	"github.com/ldalign/ldalign/models/guide"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/stages/distance"
	"github.com/ldalign/ldalign/stages/encoder"
	"github.com/ldalign/ldalign/stages/evaluator/result"
	"github.com/ldalign/ldalign/stages/policy"
)

// Stage is the evaluator of one run.
type Stage struct {
	spec        schemas.Spec
	records     []dataset.Record
	checkpoints *checkpoints.Repository
	engine      *tensor.Engine
	policy      *policy.Policy
	guide       *encoder.Guide
}

// New makes the stage for the held-out records.
func New(spec schemas.Spec, records []dataset.Record, repository *checkpoints.Repository, engine *tensor.Engine) *Stage {
	if n := spec.Evaluation.Limit; n > 0 && n < len(records) {
		records = records[:n]
	}
	return &Stage{
		spec: spec, records: records, checkpoints: repository, engine: engine, policy: policy.New(spec, repository, engine),
	}
}

// Close frees the models.
func (s *Stage) Close(ctx context.Context) error {
	err := s.policy.Close(ctx)
	if s.guide != nil {
		err = errors.Join(err, s.guide.Close(ctx))
	}
	return err
}

// answers are a checkpoint's answers to one held-out prompt, with the token ids for measuring distances.
type answers struct {
	result.Detail
	promptIDs, responseIDs []int64
	sampleIDs              [][]int64 // of each of the samples
}

// Process evaluates the policies among the checkpoints, from evaluation.first on. Other checkpoints give no result.
func (s *Stage) Process(ctx context.Context, in []*events.Checkpoint) ([]*events.Result, []error) {
	out, errs := make([]*events.Result, len(in)), make([]error, len(in))
	for i, c := range in {
		if checkpoints.Kind(c.GetKind()) == checkpoints.Policy && int(c.GetIteration()) >= s.spec.Evaluation.First {
			out[i], errs[i] = s.evaluate(ctx, c)
		}
	}
	return out, errs
}

func (s *Stage) evaluate(ctx context.Context, c *events.Checkpoint) (*events.Result, error) {
	start := time.Now()
	if err := s.policy.Use(ctx, c.GetIteration(), c.GetDigest()); err != nil {
		return nil, err
	}
	answered, err := s.answer(ctx)
	if err != nil {
		return nil, policy.OfMachine(fmt.Errorf("evaluator: checkpoint %.12s: %w", c.GetDigest(), err), policy.SmallerDecoder)
	}
	if err := s.measure(ctx, answered); err != nil {
		return nil, fmt.Errorf("evaluator: checkpoint %.12s: %w", c.GetDigest(), err)
	}
	details := make([]result.Detail, len(answered))
	for i, a := range answered {
		details[i] = a.Detail
	}
	lines, err := result.Write(details)
	if err != nil {
		return nil, fmt.Errorf("evaluator: %w", err)
	}
	blob, err := s.checkpoints.PutBlob(ctx, s.spec.Run, lines)
	if err != nil { // the store's fault, as in policy.Use
		return nil, &schemas.Unavailable{Err: fmt.Errorf("evaluator: checkpoint %.12s: %w", c.GetDigest(), err)}
	}
	metrics := result.Summarise(details, s.spec.Evaluation.Scorer)
	if refused := len(s.records) - len(details); refused > 0 {
		metrics = append(metrics, &events.Metric{Name: result.Refused, Value: float64(refused)})
	}
	return &events.Result{
		Schema: events.Version, Run: s.spec.Run, Iteration: c.GetIteration(), Checkpoint: c.GetDigest(),
		Metrics: metrics, Details: blob, Seconds: time.Since(start).Seconds(),
	}, nil
}

// answer decodes every prompt once greedily and evaluation.samples times at temperature 1. It leaves out prompts that the
// length rule or the template refuses.
func (s *Stage) answer(ctx context.Context) ([]answers, error) {
	samples, tok := s.spec.Evaluation.Samples, s.policy.Tokenizer()
	shared := decode.Request{MaxNew: s.spec.Generation.MaxNewTokens, Sampling: decode.Sampling{TopP: 1}, Stop: tok.EOS()}
	var records []dataset.Record
	var all []answers
	var requests []decode.Request // of each prompt the greedy one, then its samples
	for _, r := range s.records {
		tokens, err := s.policy.Tokenise(r.Prompt, r.Response)
		if err != nil {
			continue
		}
		records = append(records, r)
		all = append(all, answers{
			Detail:    result.Detail{ID: r.ID, Prompt: r.Prompt, Response: r.Response, Samples: make([]result.Sample, samples)},
			promptIDs: tokens.Prompt, responseIDs: tokens.Response, sampleIDs: make([][]int64, samples),
		})
		request := shared
		request.IDs = tokens.Prompt
		requests = append(requests, request)
		request.Temperature = 1
		for k := range samples {
			// the same seed for all checkpoints, so that their samples differ only because of the weights
			request.Seed = schemas.SampleSeed(s.spec.Seed, ^uint32(0), r.ID, uint32(k))
			requests = append(requests, request)
		}
	}
	results, err := decode.Generate(ctx, s.policy.Model, requests, decode.Options{Slots: s.spec.Generation.Slots}, nil)
	if err != nil {
		return nil, err
	}
	for i, r := range records {
		of := results[i*(1+samples):][:1+samples]
		all[i].Greedy = s.sample(r, of[0].IDs)
		for k, drawn := range of[1:] {
			all[i].Samples[k], all[i].sampleIDs[k] = s.sample(r, drawn.IDs), drawn.IDs
		}
	}
	return all, nil
}

func (s *Stage) sample(r dataset.Record, ids []int64) result.Sample {
	text := strings.TrimSpace(s.policy.Tokenizer().Decode(ids, true))
	sample := result.Sample{Text: text, Tokens: len(ids)}
	switch s.spec.Evaluation.Scorer {
	case "exact":
		sample.Exact = text == strings.TrimSpace(r.Response)
	case "graded":
		sample.Exact, sample.Graded = dataset.Score(r, text)
	}
	return sample
}

// measure fills in the distances if there is a guide.
func (s *Stage) measure(ctx context.Context, all []answers) error {
	if err := s.Ready(ctx); err != nil || s.guide == nil {
		return err
	}
	var texts []guide.Text
	for _, d := range all {
		texts = append(texts, guide.Text{
			Prompt: d.Prompt, Response: d.Response, PromptIDs: d.promptIDs, ResponseIDs: d.responseIDs,
		})
		for k, a := range d.Samples {
			texts = append(texts, guide.Text{
				Prompt: d.Prompt, Response: a.Text, PromptIDs: d.promptIDs, ResponseIDs: d.sampleIDs[k],
			})
		}
	}
	latents, err := s.guide.Latents(ctx, texts)
	if err != nil {
		return err
	}
	metric := s.spec.Objective.Distance
	if metric == "given" { // the data has distances for the training pairs only
		metric = "l2"
	}
	at := 0
	for i := range all {
		human := latents[at]
		at++
		for k := range all[i].Samples {
			d, err := distance.Between(metric, human, latents[at])
			if err != nil {
				return fmt.Errorf("held-out prompt %q: %w", all[i].ID, err)
			}
			all[i].Samples[k].Distance = &d
			at++
		}
	}
	return nil
}

// Ready waits until the guide that the spec names or trains, if any, is in memory. Process does the same. Call Ready first to
// stop waiting as soon as ctx ends: the context of Process ends only after a grace period.
func (s *Stage) Ready(ctx context.Context) error {
	reference := s.spec.Evaluation.Guide
	if s.spec.NeedsGuide() && reference == "" {
		reference = s.spec.Guide.From
	} else if reference == "" {
		return nil
	}
	if s.guide != nil {
		return nil
	}
	manifest, err := encoder.WaitForGuide(ctx, s.checkpoints, s.spec.GuideRun(reference))
	if err != nil {
		return err
	}
	s.guide, err = encoder.LoadGuide(ctx, s.spec, s.checkpoints, s.engine, manifest)
	return err
}
