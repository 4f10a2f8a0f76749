// Package evaluator is the stage that measures policy checkpoints on held-out prompts: greedy and sampled scores, and the
// mean latent distance of the samples from the human responses. The details that it keeps of every answer are what the
// report computes the paper's two-sample agreement test from.
package evaluator

import (
	"bytes"
	"context"
	"encoding/json"
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

// Sample is one answer to a held-out prompt.
type Sample struct {
	Text string `json:"text"`
	// Tokens counts the answer's tokens with its end token.
	Tokens int     `json:"tokens"`
	Exact  bool    `json:"exact"`
	Graded float64 `json:"graded"`
	// Distance is s between the human response and this answer; absent without a guide.
	Distance *float64 `json:"distance,omitempty"`

	ids []int64
}

// Detail is what a checkpoint answered to one held-out prompt: one line of the result's details blob.
type Detail struct {
	ID       string   `json:"id"`
	Prompt   string   `json:"prompt"`
	Response string   `json:"response"`
	Greedy   Sample   `json:"greedy"`
	Samples  []Sample `json:"samples"`

	promptIDs, responseIDs []int64
}

// Process evaluates the policies among the checkpoints, from evaluation.first on; others give no result.
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
	if err := s.policy.Use(ctx, c.GetDigest()); err != nil {
		return nil, err
	}
	details, err := s.answer(ctx)
	if err != nil {
		return nil, fmt.Errorf("evaluator: checkpoint %.12s: %w", c.GetDigest(), err)
	}
	if err := s.measure(ctx, details); err != nil {
		return nil, fmt.Errorf("evaluator: checkpoint %.12s: %w", c.GetDigest(), err)
	}
	var lines bytes.Buffer
	encode := json.NewEncoder(&lines)
	encode.SetEscapeHTML(false)
	for _, d := range details {
		if err := encode.Encode(d); err != nil {
			return nil, fmt.Errorf("evaluator: %w", err)
		}
	}
	blob, err := s.checkpoints.PutBlob(ctx, s.spec.Run, lines.Bytes())
	if err != nil { // the store's fault, as in policy.Use
		return nil, &schemas.Unavailable{Err: fmt.Errorf("evaluator: checkpoint %.12s: %w", c.GetDigest(), err)}
	}
	metrics := Summarise(details, s.spec.Evaluation.Scorer)
	if refused := len(s.records) - len(details); refused > 0 {
		metrics = append(metrics, &events.Metric{Name: Refused, Value: float64(refused)})
	}
	return &events.Result{
		Schema: events.Version, Run: s.spec.Run, Iteration: c.GetIteration(), Checkpoint: c.GetDigest(),
		Metrics: metrics, Details: blob, Seconds: time.Since(start).Seconds(),
	}, nil
}

// answer decodes every prompt once greedily and evaluation.samples times at temperature 1. Prompts that the length rule or
// the template refuses are left out.
func (s *Stage) answer(ctx context.Context) ([]Detail, error) {
	samples, tok := s.spec.Evaluation.Samples, s.policy.Tokenizer()
	shared := decode.Request{MaxNew: s.spec.Generation.MaxNewTokens, Sampling: decode.Sampling{TopP: 1}, Stop: tok.EOS()}
	var records []dataset.Record
	var details []Detail
	var requests []decode.Request // of each prompt the greedy one, then its samples
	for _, r := range s.records {
		tokens, err := s.policy.Tokenise(r.Prompt, r.Response)
		if err != nil {
			continue
		}
		records = append(records, r)
		details = append(details, Detail{
			ID: r.ID, Prompt: r.Prompt, Response: r.Response, Samples: make([]Sample, samples),
			promptIDs: tokens.Prompt, responseIDs: tokens.Response,
		})
		request := shared
		request.IDs = tokens.Prompt
		requests = append(requests, request)
		request.Temperature = 1
		for k := range samples {
			// one seed for all checkpoints: their samples differ by the weights alone
			request.Seed = schemas.SampleSeed(s.spec.Seed, ^uint32(0), r.ID, uint32(k))
			requests = append(requests, request)
		}
	}
	results, err := decode.Generate(ctx, s.policy.Model, requests, decode.Options{Slots: s.spec.Generation.Slots}, nil)
	if err != nil {
		return nil, err
	}
	for i, r := range records {
		answers := results[i*(1+samples):][:1+samples]
		details[i].Greedy = s.sample(r, answers[0])
		for k, answer := range answers[1:] {
			details[i].Samples[k] = s.sample(r, answer)
		}
	}
	return details, nil
}

func (s *Stage) sample(r dataset.Record, result decode.Result) Sample {
	text := strings.TrimSpace(s.policy.Tokenizer().Decode(result.IDs, true))
	sample := Sample{Text: text, Tokens: len(result.IDs), ids: result.IDs}
	switch s.spec.Evaluation.Scorer {
	case "exact":
		sample.Exact = text == strings.TrimSpace(r.Response)
	case "graded":
		sample.Exact, sample.Graded = dataset.Score(r, text)
	}
	return sample
}

// measure fills in the distances, when there is a guide to measure by.
func (s *Stage) measure(ctx context.Context, details []Detail) error {
	if err := s.Ready(ctx); err != nil || s.guide == nil {
		return err
	}
	var texts []guide.Text
	for _, d := range details {
		texts = append(texts, guide.Text{
			Prompt: d.Prompt, Response: d.Response, PromptIDs: d.promptIDs, ResponseIDs: d.responseIDs,
		})
		for _, a := range d.Samples {
			texts = append(texts, guide.Text{Prompt: d.Prompt, Response: a.Text, PromptIDs: d.promptIDs, ResponseIDs: a.ids})
		}
	}
	latents, err := s.guide.Latents(ctx, texts)
	if err != nil {
		return err
	}
	metric := s.spec.Objective.Distance
	if metric == "given" { // for the training pairs, not for these
		metric = "l2"
	}
	at := 0
	for i := range details {
		human := latents[at]
		at++
		for k := range details[i].Samples {
			d, err := distance.Between(metric, human, latents[at])
			if err != nil {
				return fmt.Errorf("held-out prompt %q: %w", details[i].ID, err)
			}
			details[i].Samples[k].Distance = &d
			at++
		}
	}
	return nil
}

// Ready waits until the guide that this spec measures by, if it names or trains one, is in memory. Process does the same;
// who is to stop at once when ctx ends, and not after the grace that Process is given, calls this first.
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
	manifest, err := encoder.WaitForGuide(ctx, s.checkpoints, encoder.GuideRun(s.spec, reference))
	if err != nil {
		return err
	}
	s.guide, err = encoder.LoadGuide(ctx, s.spec, s.checkpoints, s.engine, manifest)
	return err
}
