// Package generator is the stage that answers prompts: it samples y' from the checkpoint that the prompt names and
// computes the reference log-probs of y and y' under the same weights, by the code that the trainer uses.
//
// A pair depends on its prompt message and the run spec alone, never on the batch it came in or the process that worked
// on it: the text is seeded by the message, and every number is computed in shapes that the row's own length decides
// (models.Batches). A redelivered prompt therefore gives the same pair to the last bit.
package generator

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/decode"
	"github.com/ldalign/ldalign/models/score"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/stages/policy"
)

// Stage is the generator of one run.
type Stage struct {
	// Progress, if not nil, is told how many of a batch's responses are sampled.
	Progress func(done, of int)

	spec        schemas.Spec
	checkpoints *checkpoints.Repository
	policy      *policy.Policy
	// initial has the run's first policy, where that is the reference; nil otherwise.
	initial *policy.Policy
	// checked counts the pairs whose log-probs the data gives and which were computed all the same; wrong is what they showed.
	checked int
	wrong   error
}

// New makes the stage; the first prompt loads its checkpoint.
func New(spec schemas.Spec, repository *checkpoints.Repository, engine *tensor.Engine) *Stage {
	s := &Stage{spec: spec, checkpoints: repository, policy: policy.New(spec, repository, engine)}
	if spec.Objective.Reference == "initial" {
		s.initial = policy.New(spec, repository, engine)
	}
	return s
}

// Close frees the models.
func (s *Stage) Close(ctx context.Context) error {
	err := s.policy.Close(ctx)
	if s.initial != nil {
		err = errors.Join(err, s.initial.Close(ctx))
	}
	return err
}

// Process answers the prompts. Prompts of different checkpoints may come in one batch; they are worked on checkpoint by
// checkpoint. A prompt or response that the length rule or the template refuses is rejected; an error of the model or the
// store fails the prompts it concerns, which are then tried again.
func (s *Stage) Process(ctx context.Context, in []*events.Prompt) ([]*events.Pair, []error) {
	out, errs := make([]*events.Pair, len(in)), make([]error, len(in))
	for _, group := range byCheckpoint(in) {
		if err := s.policy.Use(ctx, in[group[0]].GetCheckpoint()); err != nil {
			fail(errs, group, err)
			continue
		}
		var ready []int
		for _, i := range group {
			if out[i], errs[i] = s.tokenise(in[i]); errs[i] == nil {
				ready = append(ready, i)
			}
		}
		if err := s.sample(ctx, out, ready); err != nil {
			fail(errs, ready, err)
			continue
		}
		if err := s.score(ctx, out, ready); err != nil {
			fail(errs, ready, err)
			continue
		}
		for _, i := range ready {
			if errs[i] = s.useGiven(out[i]); errs[i] != nil {
				out[i] = nil
			}
		}
	}
	return out, errs
}

// byCheckpoint groups the indices of prompts by the checkpoint they name, in order of first appearance.
func byCheckpoint(in []*events.Prompt) [][]int {
	var groups [][]int
	at := map[string]int{}
	for i, p := range in {
		g, ok := at[p.GetCheckpoint()]
		if !ok {
			g = len(groups)
			at[p.GetCheckpoint()] = g
			groups = append(groups, nil)
		}
		groups[g] = append(groups[g], i)
	}
	return groups
}

func fail(errs []error, indices []int, err error) {
	for _, i := range indices {
		errs[i] = err
	}
}

// tokenise makes the pair's prompt and chosen response (and an annotated rejected one) by the length rule.
func (s *Stage) tokenise(p *events.Prompt) (*events.Pair, error) {
	tokens, err := s.policy.Tokenise(p.GetPrompt(), p.GetResponse())
	if err != nil {
		return nil, err
	}
	pair := &events.Pair{
		Schema: events.Version, Prompt: p, PromptIds: tokens.Prompt, ChosenIds: tokens.Response,
		Weights: s.policy.Digest, Truncated: uint32(tokens.Cut),
	}
	if !s.spec.GivenPairs() {
		return pair, nil
	}
	if p.GetRejected() == "" {
		return nil, &schemas.Reject{
			Reason: schemas.ReasonInvalid,
			Err:    fmt.Errorf("generator: prompt %q has no rejected response, which this run takes from the data", p.GetPromptId()),
		}
	}
	annotated, err := s.policy.Tokenise(p.GetPrompt(), p.GetRejected())
	if err != nil {
		return nil, err
	}
	pair.Rejected, pair.RejectedIds, pair.FinishReason = p.GetRejected(), annotated.Response, "annotated"
	pair.Truncated += uint32(annotated.Cut)
	return pair, nil
}

// sample fills in y' of the pairs at the given indices, unless it is annotated.
func (s *Stage) sample(ctx context.Context, out []*events.Pair, indices []int) error {
	var requests []decode.Request
	var pending []int
	for _, i := range indices {
		if out[i].GetFinishReason() == "annotated" {
			continue
		}
		requests = append(requests, decode.Request{IDs: out[i].GetPromptIds(), Seed: out[i].GetPrompt().GetSampleSeed()})
		pending = append(pending, i)
	}
	if len(requests) == 0 {
		return nil
	}
	results, err := decode.Generate(ctx, s.policy.Model, requests, s.options(), func(done int) {
		if s.Progress != nil {
			s.Progress(done, len(requests))
		}
	})
	if err != nil {
		return fmt.Errorf("generator: checkpoint %.12s: %w", s.policy.Digest, err)
	}
	tok := s.policy.Tokenizer()
	for k, r := range results {
		pair := out[pending[k]]
		pair.RejectedIds, pair.FinishReason = r.IDs, r.Reason
		pair.Rejected = strings.TrimSpace(tok.Decode(r.IDs, true))
	}
	return nil
}

func (s *Stage) options() decode.Options {
	tok := s.policy.Tokenizer()
	return decode.Options{
		MaxNew: s.spec.Generation.MaxNewTokens, Temperature: s.spec.Generation.Temperature, TopP: s.spec.Generation.TopP,
		Stop: tok.EOS(), Slots: s.spec.Generation.Slots,
	}
}

// reference is the policy whose log-probs pairs get: the one that answers, or the run's first.
func (s *Stage) reference(ctx context.Context) (*policy.Policy, error) {
	if s.initial == nil {
		return s.policy, nil
	}
	if s.initial.Digest == "" {
		first, err := s.checkpoints.Policy(ctx, s.spec.Run, uint32(s.spec.FirstIteration()))
		if err != nil {
			return nil, &schemas.Unable{Err: fmt.Errorf("generator: the run's first policy: %w", err)}
		}
		if first.Digest == s.policy.Digest { // no need to hold it twice, yet
			return s.policy, nil
		}
		if err := s.initial.Use(ctx, first.Digest); err != nil {
			return nil, err
		}
	}
	return s.initial, nil
}

// score fills in the log-probs of both responses under the reference.
func (s *Stage) score(ctx context.Context, out []*events.Pair, indices []int) error {
	reference, err := s.reference(ctx)
	if err != nil {
		return err
	}
	rows := make([]models.Sequence, 0, 2*len(indices))
	var scored []int
	for _, i := range indices {
		if reference.Digest != s.policy.Digest {
			out[i].Reference = reference.Digest
		}
		if hasGiven(out[i]) && s.checked+len(scored) >= givenChecks {
			continue
		}
		scored = append(scored, i)
		rows = append(rows, models.Join(out[i].GetPromptIds(), out[i].GetChosenIds()))
		rows = append(rows, models.Join(out[i].GetPromptIds(), out[i].GetRejectedIds()))
	}
	if len(scored) == 0 {
		return nil
	}
	logprobs, err := score.LogProbs(ctx, reference.Model, rows, score.Options{}, nil)
	if err != nil {
		return fmt.Errorf("generator: reference log-probs by checkpoint %.12s: %w", reference.Digest, err)
	}
	logp := score.Sums(logprobs)
	for k, i := range scored {
		out[i].ChosenLogp, out[i].RejectedLogp = logp[2*k], logp[2*k+1]
	}
	return nil
}
