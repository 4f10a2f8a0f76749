package trainer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tokenizer"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams/ledger"
	"github.com/ldalign/ldalign/trainer/activity"
	"github.com/ldalign/ldalign/trainer/lineage"
	"github.com/ldalign/ldalign/trainer/objective"
)

// Source is the stream that an objective trains from.
func Source(objective string) schemas.Kind {
	switch objective {
	case "sft":
		return schemas.Prompts
	case "ldalign":
		return schemas.Scored
	default:
		return schemas.Pairs
	}
}

// messages waits until iteration i is complete in the log and returns its messages in the prompter's order, with the
// sequence of the last one. A resumed iteration sees exactly the messages that it saw before: those up to the sequence in
// its cursor, so a letter redriven since then does not change the order it trains in.
func (t *Trainer) messages(ctx context.Context, phase string, kind schemas.Kind, i uint32) ([]events.Message, uint64, error) {
	feed, replayed := lineage.Feed(t.Spec, kind)
	var got ledger.Collected
	var err error
	if replayed {
		got, err = t.recalled(ctx, phase, feed, i)
	} else {
		got, err = ledger.Collect(ctx, t.Streams, kind, t.Spec.Run, i, func(have, total int) {
			t.Meter.Observe(activity.Waiting{Work: t.work(phase, i, have, total), Kind: kind})
		})
	}
	if err != nil {
		return nil, 0, err
	}
	upTo := got.Last
	if !replayed && t.resumes(phase, i) { // a replay's part is bounded already
		upTo = t.resume.Cursor.Sequence
		if got.Last < upTo {
			return nil, 0, lost(feed.Kind, feed.Run, got.Last, upTo)
		}
	}
	if phase == policyPhase && t.streaming() {
		got = inLogOrder(got)
	}
	var messages []events.Message
	for k, m := range got.Messages {
		if got.Seqs[k] <= upTo {
			messages = append(messages, m)
		}
	}
	if len(messages) == 0 {
		return nil, 0, fmt.Errorf("trainer: iteration %d of run %s has nothing to train on: %d pairs are dead-lettered "+
			"(`ldalign deadletters list %s` says why)", i, t.Spec.Run, got.Dead, t.Spec.Run)
	}
	return messages, upTo, nil
}

// inLogOrder is an iteration in the order of its sequences.
func inLogOrder(c ledger.Collected) ledger.Collected {
	at := make([]int, len(c.Seqs))
	for k := range at {
		at[k] = k
	}
	slices.SortFunc(at, func(a, b int) int { return cmp.Compare(c.Seqs[a], c.Seqs[b]) })
	out := c
	out.Messages, out.Seqs = nil, nil
	for _, k := range at {
		out.Messages, out.Seqs = append(out.Messages, c.Messages[k]), append(out.Seqs, c.Seqs[k])
	}
	return out
}

// intake is an iteration as it was read from the log, so far.
type intake struct {
	kind      schemas.Kind
	iteration uint32
	// inflow brings more; nil when all is there.
	inflow *inflow
	task   task
	// distances of the task's pairs, and the number of those that were cut.
	distances []float64
	cut       int
	// batches has the ids of the task's examples, in their order, and of what was left out; no steps yet.
	batches checkpoints.Batches
	// told is how many pairs the log was told to be taken.
	told int
	// upTo is the sequence of the last message.
	upTo uint64
	// metrics are what the manifest will say about the pairs.
	metrics []checkpoints.Metric
}

// collect makes the task of iteration i from the log; by the streaming schedule an empty one, with the inflow that fills it.
func (t *Trainer) collect(ctx context.Context, i uint32) (*intake, error) {
	in := &intake{kind: objective.TrainsFrom(t.Spec.Objective.Kind), iteration: i}
	_, replayed := lineage.Feed(t.Spec, in.kind) // from a log that has all
	if t.streaming() && !replayed && (!t.resumes(policyPhase, i) || t.resume.Cursor.Open) {
		in.inflow = t.follow(ctx, in.kind, i)
		return in, t.add(ctx, nil, in)
	}
	messages, upTo, err := t.messages(ctx, policyPhase, in.kind, i)
	if err != nil {
		return nil, err
	}
	in.upTo = upTo
	if err := t.add(ctx, messages, in); err != nil {
		return nil, err
	}
	return in, t.whole(in)
}

// add takes in messages.
func (t *Trainer) add(ctx context.Context, messages []events.Message, in *intake) error {
	if in.kind == schemas.Prompts {
		t.sequences(messages, in)
		return nil
	}
	return t.pairs(ctx, messages, in)
}

// whole looks at an intake to which nothing will be added any more.
func (t *Trainer) whole(in *intake) error {
	if in.cut > 0 {
		t.Log.Warn().Str("run", t.Spec.Run).Msgf("%d of %d pairs were cut to data.max_prompt_tokens or max_response_tokens "+
			"(raise them, or have such pairs dead-lettered by data.overlong: reject)", in.cut, len(in.batches.Pairs))
	}
	switch {
	case len(in.batches.Pairs) > 0:
		return nil
	case len(in.batches.Skipped) > 0:
		return fmt.Errorf("trainer: all %d prompts or pairs of iteration %d were refused; the log says why for each",
			len(in.batches.Skipped), in.iteration)
	default:
		return fmt.Errorf("trainer: iteration %d of run %s has nothing to train on: all its pairs are dead-lettered "+
			"(`ldalign deadletters list %s` says why)", in.iteration, t.Spec.Run, t.Spec.Run)
	}
}

// reasonOf is the reason for which a prompt is left out.
func reasonOf(err error) string {
	switch {
	case errors.Is(err, tokenizer.ErrEmpty):
		return schemas.ReasonEmpty
	case errors.Is(err, tokenizer.ErrTooLong):
		return schemas.ReasonTooLong
	default:
		return schemas.ReasonInvalid
	}
}

// ids are those of messages.
func ids(messages []events.Message) []string {
	out := make([]string, len(messages))
	for i, m := range messages {
		out[i] = m.ID()
	}
	return out
}

// sequences adds to the SFT task. Prompts that the length rule refuses are logged, counted and not trained on.
func (t *Trainer) sequences(messages []events.Message, in *intake) {
	out, ok := in.task.(*sequenceTask)
	if !ok {
		out = &sequenceTask{model: t.model, compute: compute(t.Spec.Training)}
	}
	limits := tokenizer.Limits{
		Prompt: t.Spec.Data.MaxPromptTokens, Response: t.Spec.Data.MaxResponseTokens, Reject: t.Spec.Data.Overlong == "reject",
	}
	for _, m := range messages {
		p := m.(*events.Prompt)
		tokens, err := t.format.Fit(p.GetPrompt(), p.GetResponse(), limits)
		if err != nil {
			t.Log.Warn().Str("pair", p.ID()).Err(err).Msg("prompt is not trained on")
			in.batches.Skipped = append(in.batches.Skipped, checkpoints.Skipped{ID: p.ID(), Reason: reasonOf(err)})
			continue
		}
		if tokens.Cut > 0 {
			in.cut++
		}
		in.batches.Pairs = append(in.batches.Pairs, p.ID())
		out.rows = append(out.rows, models.Join(tokens.Prompt, tokens.Response))
	}
	in.task, in.metrics = out, []checkpoints.Metric{
		{Name: "pairs", Value: float64(len(out.rows))}, {Name: "refused", Value: float64(len(in.batches.Skipped))},
	}
}

// pairs adds to the task of pairs, and computes their weights and the figures of these. Weights that can be computed before
// the last pair is there do not change when more come.
func (t *Trainer) pairs(ctx context.Context, messages []events.Message, in *intake) error {
	i := in.iteration
	weights, err := t.reference(ctx, i)
	if err != nil {
		return err
	}
	reference, err := t.referenceDigest(ctx, weights)
	if err != nil {
		return err
	}
	out, ok := in.task.(*pairTask)
	if !ok {
		out = &pairTask{
			model: t.model, objective: objective.PreferenceOf(t.Spec.Objective), compute: compute(t.Spec.Training),
		}
	}
	if err := t.take(messages, weights, reference, i, out, in); err != nil {
		return err
	}
	if t.Spec.Objective.Mix == "previous" && int(i) > t.Spec.FirstIteration() {
		if err := t.mixIn(ctx, i, reference, out, in); err != nil {
			return err
		}
	}
	in.task = out
	if len(out.pairs) == 0 {
		return nil
	}
	return t.weigh(ctx, in.distances, i, out, in)
}

// take adds the pairs of messages to a task, and their distances, where they have such, to the intake, given the weights
// that must have made them and given their log-probs. A pair with an empty response, or with tokens that the model does not
// have, is left out, logged and counted.
func (t *Trainer) take(
	messages []events.Message, weights, reference string, i uint32, out *pairTask, in *intake,
) error {
	for _, m := range messages {
		p := pairOf(m)
		if p == nil {
			return fmt.Errorf("trainer: a %T cannot be trained on", m)
		}
		if p.GetPolicyDigest() != weights {
			return fmt.Errorf("trainer: pair %s was made by checkpoint %.12s, but iteration %d starts from %.12s",
				p.ID(), p.GetPolicyDigest(), p.GetIteration(), weights)
		}
		if got := p.ReferenceDigest(); got != reference {
			return fmt.Errorf("trainer: pair %s has log-probs of checkpoint %.12s, but objective.reference: %s is %.12s here: "+
				"they are no reference for this run", p.ID(), got, t.Spec.Objective.Reference, reference)
		}
		if len(p.GetChosenIds()) == 0 || len(p.GetRejectedIds()) == 0 {
			t.Log.Warn().Str("pair", p.ID()).Msg("a response is empty: the pair is not trained on")
			in.batches.Skipped = append(in.batches.Skipped, checkpoints.Skipped{ID: p.ID(), Reason: schemas.ReasonEmpty})
			continue
		}
		if t.skips(p, &in.batches) {
			continue
		}
		if p.GetTruncated() > 0 {
			in.cut++
		}
		if scored, is := m.(*events.Scored); is && t.Spec.Objective.Kind == "ldalign" {
			in.distances = append(in.distances, scored.GetDistance())
		}
		in.batches.Pairs = append(in.batches.Pairs, p.ID())
		out.pairs = append(out.pairs, pair{
			chosen: models.Join(p.GetPromptIds(), p.GetChosenIds()), rejected: models.Join(p.GetPromptIds(), p.GetRejectedIds()),
			refChosen: p.GetChosenLogp(), refRejected: p.GetRejectedLogp(), weight: 1,
			sampled: t.fairSamples() && p.GetPolicyDigest() == reference && p.GetIteration() == i,
			same:    slices.Equal(p.GetChosenIds(), p.GetRejectedIds()),
		})
	}
	return nil
}

// skips tells whether a pair has a token that is not in the vocabulary, which no stage writes: it is not trained on.
func (t *Trainer) skips(p *events.Pair, batches *checkpoints.Batches) bool {
	vocabulary := int64(t.model.Config().Vocab)
	for _, ids := range [][]int64{p.GetPromptIds(), p.GetChosenIds(), p.GetRejectedIds()} {
		if i := slices.IndexFunc(ids, func(id int64) bool { return id < 0 || id >= vocabulary }); i >= 0 {
			t.Log.Warn().Str("pair", p.ID()).
				Msgf("token %d is not in the vocabulary of %d: the pair is not trained on", ids[i], vocabulary)
			batches.Skipped = append(batches.Skipped, checkpoints.Skipped{ID: p.ID(), Reason: schemas.ReasonInvalid})
			return true
		}
	}
	return false
}

// weigh gives the pairs of iteration i the weights of their distances; without distances these are 1.
func (t *Trainer) weigh(ctx context.Context, distances []float64, i uint32, out *pairTask, in *intake) error {
	in.metrics = nil
	identical := 0
	w := make([]float64, len(out.pairs))
	for k, p := range out.pairs {
		w[k] = p.weight
		if p.same {
			identical++
		}
	}
	if len(distances) > 0 {
		first, err := t.firstNormaliser(ctx, i)
		if err != nil {
			return err
		}
		var normaliser float64
		if w, normaliser, err = objective.Weights(distances, t.Spec, i, first); err != nil {
			return err
		}
		for k := range out.pairs {
			out.pairs[k].weight, out.pairs[k].distance = w[k], distances[k]
		}
		in.metrics = append(in.metrics, checkpoints.Metric{Name: normaliserMetric, Value: normaliser})
	}
	in.metrics = append(in.metrics,
		checkpoints.Metric{Name: "weight_max", Value: slices.Max(w)},
		checkpoints.Metric{Name: "effective_sample_size", Value: objective.EffectiveSampleSize(w)},
		checkpoints.Metric{Name: "identical_share", Value: float64(identical) / float64(len(w))},
		checkpoints.Metric{Name: "pairs", Value: float64(len(w))},
	)
	if in.batches.Earlier > 0 {
		in.metrics = append(in.metrics, checkpoints.Metric{Name: "earlier_pairs", Value: float64(in.batches.Earlier)})
	}
	if n := len(in.batches.Skipped); n > 0 {
		in.metrics = append(in.metrics, checkpoints.Metric{Name: "refused", Value: float64(n)})
	}
	return nil
}

// referenceDigest is the manifest digest of the weights that must have given the log-probs of an iteration's pairs, given that
// of those which made the pairs.
func (t *Trainer) referenceDigest(ctx context.Context, weights string) (string, error) {
	if t.Spec.Objective.Reference != "initial" {
		return weights, nil
	}
	if t.initial != "" {
		return t.initial, nil
	}
	run, first := t.Spec.Run, t.Spec.FirstIteration()
	if _, replayed := lineage.Feed(t.Spec, schemas.Pairs); replayed {
		var err error
		if run, first, err = lineage.SampledBy(ctx, t.Streams, t.Spec.Source.Run); err != nil {
			return "", err
		}
	}
	policy, err := t.Checkpoints.Policy(ctx, run, uint32(first))
	if err != nil {
		return "", fmt.Errorf("trainer: the first policy, which is the reference (objective.reference: initial): %w", err)
	}
	t.initial = policy.Digest
	return t.initial, nil
}

// fairSamples tells whether y' is sampled as the policy's distribution has it, as an estimate of KL(ref || p) needs it.
func (t *Trainer) fairSamples() bool {
	return t.Spec.Samples() && t.Spec.Generation.Temperature == 1 && t.Spec.Generation.TopP == 1
}

// pairOf is the pair that a message is or holds; nil when it holds none.
func pairOf(m events.Message) *events.Pair {
	switch m := m.(type) {
	case *events.Pair:
		return m
	case *events.Encoded:
		return m.GetPair()
	case *events.Scored:
		return m.GetPair()
	default:
		return nil
	}
}

const normaliserMetric = "normaliser"

// firstNormaliser is S_0, kept in the manifest of the policy that iteration 0 made.
func (t *Trainer) firstNormaliser(ctx context.Context, i uint32) (float64, error) {
	if t.Spec.Objective.Normaliser != "fixed_first" || i == 0 {
		return 0, nil
	}
	spec := t.Spec
	for spec.FirstIteration() > 0 { // iteration 0 was its source's
		var err error
		if spec, err = lineage.Spec(ctx, t.Streams, spec.Source.Run); err != nil {
			return 0, fmt.Errorf("trainer: the run that made iteration 0: %w", err)
		}
	}
	manifest, err := t.Checkpoints.Policy(ctx, spec.Run, 1)
	if err != nil {
		return 0, fmt.Errorf("trainer: the policy of iteration 0, whose normaliser is that of all (objective.normaliser: "+
			"fixed_first): %w", err)
	}
	for _, m := range manifest.Metrics {
		if m.Name == normaliserMetric {
			return m.Value, nil
		}
	}
	return 0, fmt.Errorf("trainer: checkpoint %s names no %s, which objective.normaliser: fixed_first needs",
		manifest.Key, normaliserMetric)
}
