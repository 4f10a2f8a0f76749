// Package generator is the stage that answers prompts: it samples y' from the checkpoint that the prompt names and
// computes the reference log-probs of y and y' (models/logprob) under the same weights, or under the run's first policy.
//
// A pair depends only on its prompt message and the run spec, never on its batch or the process: the message has the seed of
// the text, and every number is computed from the row's own tokens only (models.Cache). A redelivered prompt therefore gives
// the same pair to the last bit.
package generator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/decode"
	"github.com/ldalign/ldalign/models/logprob"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/stages/policy"
)

// Stage is the generator of one run.
type Stage struct {
	// Progress, if not nil, is called with the number of responses of a batch that are sampled.
	Progress func(done, of int)

	spec        schemas.Spec
	checkpoints *checkpoints.Repository
	policy      *policy.Policy
	scheduler   *decode.Scheduler // on the policy's model; nil before the first prompt
	// initial is the run's first policy if that is the reference; nil otherwise.
	initial *policy.Policy
	// checked counts the pairs whose log-probs are in the data and were computed as a check. wrong is the error of a failed
	// check.
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
	var err error
	if s.scheduler != nil {
		err = s.scheduler.Close(ctx)
	}
	err = errors.Join(err, s.policy.Close(ctx))
	if s.initial != nil {
		err = errors.Join(err, s.initial.Close(ctx))
	}
	return err
}

// Process answers the prompts of in. Whenever a slot of the decoder gets free, it takes further prompts from more (nil for
// none), which returns at most n without waiting. The results are the pairs and errors of in, followed by those of the
// further prompts. Prompts of different checkpoints may be mixed; Process works on one checkpoint after the other. A prompt or
// response that the length rule or the template refuses is a *schemas.Reject. An error of the model or the store fails the
// prompts that it affects, which are then tried again; if memory is short, it is a permanent *schemas.Unavailable.
func (s *Stage) Process(
	ctx context.Context, in []*events.Prompt, more func(n int) []*events.Prompt,
) ([]*events.Pair, []error) {
	b := &batch{more: more}
	b.add(in...)
	for start := 0; start < len(b.in); {
		end := len(b.in)
		for _, group := range b.byCheckpoint(start, end) {
			s.work(ctx, b, group)
		}
		b.more = nil // further prompts that name another checkpoint are processed without taking more
		start = end
	}
	return b.out, b.errs
}

// batch is the prompts that are being processed, with their results.
type batch struct {
	in   []*events.Prompt
	out  []*events.Pair
	errs []error
	// taken marks the prompts of a refill that were processed with the group that asked for them.
	taken []bool
	more  func(n int) []*events.Prompt
}

func (b *batch) add(in ...*events.Prompt) {
	b.in = append(b.in, in...)
	n := len(b.in)
	b.out = append(b.out, make([]*events.Pair, n-len(b.out))...)
	b.errs = append(b.errs, make([]error, n-len(b.errs))...)
	b.taken = append(b.taken, make([]bool, n-len(b.taken))...)
}

// byCheckpoint groups the prompts from start to end that are not taken by the checkpoint that they name, in order of first
// appearance.
func (b *batch) byCheckpoint(start, end int) [][]int {
	var groups [][]int
	at := map[string]int{}
	for i := start; i < end; i++ {
		if b.taken[i] {
			continue
		}
		name := b.in[i].GetCheckpoint()
		g, ok := at[name]
		if !ok {
			g = len(groups)
			at[name] = g
			groups = append(groups, nil)
		}
		groups[g] = append(groups[g], i)
	}
	return groups
}

// work makes the pairs of prompts that name one checkpoint.
func (s *Stage) work(ctx context.Context, b *batch, group []int) {
	first := b.in[group[0]]
	if err := s.policy.Use(ctx, first.GetIteration(), first.GetCheckpoint()); err != nil {
		fail(b.errs, group, err)
		return
	}
	var ready []int
	for _, i := range group {
		if b.out[i], b.errs[i] = s.tokenise(b.in[i]); b.errs[i] == nil {
			ready = append(ready, i)
		}
	}
	ready, err := s.sample(ctx, b, ready)
	if err == nil {
		err = s.score(ctx, b.out, ready)
	}
	if err != nil {
		fail(b.errs, ready, policy.OfMachine(err, policy.SmallerDecoder))
		return
	}
	for _, i := range ready {
		if b.errs[i] = s.useGiven(b.out[i]); b.errs[i] != nil {
			b.out[i] = nil
		}
	}
}

// refill takes prompts from more until one is for the checkpoint in memory and ready to be sampled. It returns its index.
func (s *Stage) refill(b *batch) (i int, ok bool) {
	for b.more != nil {
		got := b.more(1)
		if len(got) == 0 {
			return 0, false
		}
		i := len(b.in)
		b.add(got...)
		if got[0].GetCheckpoint() != s.policy.Digest {
			continue
		}
		b.taken[i] = true
		if b.out[i], b.errs[i] = s.tokenise(got[0]); b.errs[i] == nil {
			return i, true
		}
	}
	return 0, false
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
		PolicyDigest: s.policy.Digest, Truncated: uint32(tokens.Cut),
	}
	if !s.spec.GivenPairs() {
		return pair, nil
	}
	if p.GetRejected() == "" {
		return nil, &schemas.Reject{
			Reason: schemas.ReasonInvalid,
			Err:    fmt.Errorf("generator: prompt %q has no rejected response in the data, which this run needs", p.GetPromptId()),
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

// sample fills in y' of the pairs at the given indices, unless it is annotated, and of those that a refill adds. It returns
// the indices of all pairs that have a y'. A row that fails is an error of its pair only.
func (s *Stage) sample(ctx context.Context, b *batch, indices []int) ([]int, error) {
	var pending []int // in the order of requests
	for _, i := range indices {
		if b.out[i].GetFinishReason() != "annotated" {
			pending = append(pending, i)
		}
	}
	if len(pending) == 0 {
		return indices, nil
	}
	if err := s.schedule(); err != nil {
		return indices, err
	}
	tok, taken, done := s.policy.Tokenizer(), 0, 0
	request := decode.Request{
		MaxNew:   s.spec.Generation.MaxNewTokens,
		Sampling: decode.Sampling{Temperature: s.spec.Generation.Temperature, TopP: s.spec.Generation.TopP},
		Stop:     tok.EOS(),
	}
	err := s.scheduler.Feed(ctx,
		func() (decode.Request, bool, error) {
			if taken == len(pending) {
				i, ok := s.refill(b)
				if !ok {
					return decode.Request{}, false, nil
				}
				pending, indices = append(pending, i), append(indices, i)
			}
			pair := b.out[pending[taken]]
			taken++
			request.IDs, request.Seed = pair.GetPromptIds(), pair.GetPrompt().GetSampleSeed()
			return request, true, nil
		},
		func(k int, r decode.Result) error {
			i := pending[k]
			if r.Err != nil {
				b.out[i], b.errs[i] = nil, fmt.Errorf("generator: checkpoint %.12s: %w", s.policy.Digest, r.Err)
				return nil //nolint:nilerr // the error is this pair's alone; the feed goes on
			}
			pair := b.out[i]
			pair.RejectedIds, pair.FinishReason = r.IDs, r.Reason
			pair.Rejected = strings.TrimSpace(tok.Decode(r.IDs, true))
			if done++; s.Progress != nil {
				s.Progress(done, taken)
			}
			return nil
		})
	if err != nil {
		return indices, fmt.Errorf("generator: checkpoint %.12s: %w", s.policy.Digest, err)
	}
	return slices.DeleteFunc(indices, func(i int) bool { return b.errs[i] != nil }), nil
}

// schedule makes the scheduler decode with the policy's weights. No request with earlier weights may be left, because the
// policy reads new weights into the same model.
func (s *Stage) schedule() (err error) {
	weights := decode.Weights{Model: s.policy.Model, Digest: s.policy.Digest}
	switch {
	case s.scheduler == nil:
		s.scheduler, err = decode.New(decode.Options{
			Slots:  s.spec.Generation.Slots,
			Length: min(s.policy.Model.Config().MaxLength(), s.spec.Data.MaxPromptTokens+s.spec.Generation.MaxNewTokens),
		}, weights)
	case s.scheduler.Digest() != weights.Digest:
		err = s.scheduler.Swap(weights)
	}
	if err != nil {
		return fmt.Errorf("generator: checkpoint %.12s: %w", s.policy.Digest, err)
	}
	return nil
}

// reference is the policy that computes the reference log-probs: the one that answers, or the run's first.
func (s *Stage) reference(ctx context.Context) (*policy.Policy, error) {
	if s.initial == nil {
		return s.policy, nil
	}
	if s.initial.Digest == "" {
		first, err := s.checkpoints.Policy(ctx, s.spec.Run, uint32(s.spec.FirstIteration()))
		if err != nil {
			return nil, &schemas.Unavailable{Err: fmt.Errorf("generator: the run's first policy: %w", err)}
		}
		if first.Digest == s.policy.Digest { // no need to hold it twice, yet
			return s.policy, nil
		}
		if err := s.initial.Use(ctx, first.Iteration, first.Digest); err != nil {
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
	checks := s.checked
	for _, i := range indices {
		if reference.Digest != s.policy.Digest {
			out[i].Reference = reference.Digest
		}
		if hasGiven(out[i]) {
			if checks == givenChecks {
				continue
			}
			checks++
		}
		scored = append(scored, i)
		rows = append(rows, models.Join(out[i].GetPromptIds(), out[i].GetChosenIds()))
		rows = append(rows, models.Join(out[i].GetPromptIds(), out[i].GetRejectedIds()))
	}
	if len(scored) == 0 {
		return nil
	}
	logprobs, err := logprob.Tokens(ctx, reference.Model, rows, logprob.Options{}, nil)
	if err != nil {
		return fmt.Errorf("generator: reference log-probs by checkpoint %.12s: %w", reference.Digest, err)
	}
	logp := logprob.Sums(logprobs)
	for k, i := range scored {
		out[i].ChosenLogp, out[i].RejectedLogp = logp[2*k], logp[2*k+1]
	}
	return nil
}
