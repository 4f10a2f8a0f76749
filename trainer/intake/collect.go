package intake

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
	"github.com/ldalign/ldalign/trainer/schedule"
	"github.com/ldalign/ldalign/trainer/task"
)

// messages waits until iteration i is complete in the log and returns its messages in the prompter's order, with the
// sequence of the last one. A resumed iteration gets the same messages as before, those up to the sequence in its cursor, so a
// dead letter that was redriven in between does not change the order of training.
func (r *Reader) messages(ctx context.Context, phase string, kind schemas.Kind, i uint32) ([]events.Message, uint64, error) {
	feed, replayed := lineage.Feed(r.Spec, kind)
	var got ledger.Collected
	var err error
	if replayed {
		got, err = r.recalled(ctx, phase, feed, i)
	} else {
		got, err = ledger.Collect(ctx, r.Streams, kind, r.Spec.Run, i, func(have, total int) {
			r.Observe(activity.Waiting{Work: r.work(phase, i, have, total), Kind: kind})
		})
	}
	if err != nil {
		return nil, 0, err
	}
	upTo := got.Last
	if !replayed && r.resumes(phase, i) { // the part of the log that a replay reads has an end
		upTo = r.Resume.Cursor.Sequence
		if got.Last < upTo {
			return nil, 0, lost(feed.Kind, feed.Run, got.Last, upTo)
		}
	}
	if phase == schedule.Policy && r.streaming() {
		got = inLogOrder(got)
	}
	var messages []events.Message
	for k, m := range got.Messages {
		if got.Seqs[k] <= upTo {
			messages = append(messages, m)
		}
	}
	if len(messages) == 0 {
		return nil, 0, fmt.Errorf("trainer: iteration %d of run %s has nothing to train on: all its %d pairs are dead letters "+
			"(`ldalign deadletters list %s` shows why)", i, r.Spec.Run, got.Dead, r.Spec.Run)
	}
	return messages, upTo, nil
}

// inLogOrder returns the messages in the order of their sequences.
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

// Collect makes the task of iteration i from the log. With the streaming schedule the task is empty at first, and Arrivals
// fills it.
func (r *Reader) Collect(ctx context.Context, i uint32) (*Iteration, error) {
	in := &Iteration{reader: r, kind: objective.TrainsFrom(r.Spec.Objective.Kind), number: i}
	feed, replayed := lineage.Feed(r.Spec, in.kind) // a source's log is complete
	if r.streaming() && !replayed && (!r.resumes(schedule.Policy, i) || r.Resume.Cursor.Open) {
		in.inflow = r.follow(ctx, in.kind, i)
		if err := in.add(ctx, nil); err != nil {
			in.inflow.close()
			return nil, err
		}
		return in, nil
	}
	messages, upTo, err := r.messages(ctx, schedule.Policy, in.kind, i)
	if err != nil {
		return nil, err
	}
	in.upTo = upTo
	if err := in.add(ctx, messages); err != nil {
		return nil, err
	}
	if r.streaming() {
		if in.planned, _, err = r.closed(ctx, feed.Run, i); err != nil {
			return nil, err
		}
	}
	return in, in.whole()
}

// GuidePairs waits for the pairs of iteration 0, from which the guide is trained. It returns them in the prompter's order,
// with their ids and the sequence of the last one. It leaves out pairs with tokens that are not in the vocabulary, unless the
// guide has its own tokenizer, which reads the texts.
func (r *Reader) GuidePairs(
	ctx context.Context, ownTokenizer bool,
) (pairs []*events.Pair, _ checkpoints.Batches, upTo uint64, _ error) {
	var batches checkpoints.Batches
	messages, upTo, err := r.messages(ctx, schedule.Guide, schemas.Pairs, 0)
	if err != nil {
		return nil, batches, 0, err
	}
	for _, m := range messages {
		p, ok := m.(*events.Pair)
		if !ok {
			return nil, batches, 0, fmt.Errorf("trainer: the guide cannot be trained on a message of type %T", m)
		}
		if !ownTokenizer && r.skips(p, &batches) {
			continue
		}
		pairs, batches.Pairs = append(pairs, p), append(batches.Pairs, p.ID())
	}
	if len(pairs) == 0 {
		return nil, batches, 0, fmt.Errorf("trainer: all %d pairs for the guide were refused; the log output says why",
			len(batches.Skipped))
	}
	return pairs, batches, upTo, nil
}

// add adds messages to the iteration's task.
func (in *Iteration) add(ctx context.Context, messages []events.Message) error {
	if in.kind == schemas.Prompts {
		in.sequences(messages)
		return nil
	}
	return in.pairs(ctx, messages)
}

// whole checks a complete iteration.
func (in *Iteration) whole() error {
	run := in.reader.Spec.Run
	if in.cut > 0 {
		in.reader.Log.Warn().Str("run", run).Msgf("%d of %d pairs were cut to data.max_prompt_tokens or max_response_tokens "+
			"(raise them, or set data.overlong: reject to leave such pairs out)", in.cut, len(in.batches.Pairs))
	}
	switch {
	case len(in.batches.Pairs) > 0:
		return nil
	case len(in.batches.Skipped) > 0:
		return fmt.Errorf("trainer: all %d prompts or pairs of iteration %d were refused; the log output says why",
			len(in.batches.Skipped), in.number)
	default:
		return fmt.Errorf("trainer: iteration %d of run %s has nothing to train on: all its pairs are dead letters "+
			"(`ldalign deadletters list %s` shows why)", in.number, run, run)
	}
}

// reasonOf is the reason why a prompt is left out.
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

// sequences adds prompts to the SFT task. It logs and counts prompts that the length rule refuses, and leaves them out.
func (in *Iteration) sequences(messages []events.Message) {
	r := in.reader
	out, ok := in.task.(*task.Sequences)
	if !ok {
		out = &task.Sequences{Model: r.Model, Compute: task.Compute(r.Spec.Training)}
	}
	limits := tokenizer.Limits{
		Prompt: r.Spec.Data.MaxPromptTokens, Response: r.Spec.Data.MaxResponseTokens, Reject: r.Spec.Data.Overlong == "reject",
	}
	for _, m := range messages {
		p := m.(*events.Prompt)
		tokens, err := r.Format.Fit(p.GetPrompt(), p.GetResponse(), limits)
		if err != nil {
			r.Log.Warn().Str("pair", p.ID()).Err(err).Msg("prompt is not trained on")
			in.batches.Skipped = append(in.batches.Skipped, checkpoints.Skipped{ID: p.ID(), Reason: reasonOf(err)})
			continue
		}
		if tokens.Cut > 0 {
			in.cut++
		}
		in.batches.Pairs = append(in.batches.Pairs, p.ID())
		out.Rows = append(out.Rows, models.Join(tokens.Prompt, tokens.Response))
	}
	in.task, in.metrics = out, []checkpoints.Metric{
		{Name: "pairs", Value: float64(len(out.Rows))}, {Name: "refused", Value: float64(len(in.batches.Skipped))},
	}
}

// pairs adds pairs to the task, and computes their weights and the metrics of these. Weights that are computed before the
// last pair has arrived do not change when more arrive.
func (in *Iteration) pairs(ctx context.Context, messages []events.Message) error {
	r, i := in.reader, in.number
	made, err := r.makers(ctx, i)
	if err != nil {
		return err
	}
	out, ok := in.task.(*task.Pairs)
	if !ok {
		out = &task.Pairs{
			Model: r.Model, Objective: objective.PreferenceOf(r.Spec.Objective), Compute: task.Compute(r.Spec.Training),
		}
	}
	if err := in.take(messages, made, out); err != nil {
		return err
	}
	if r.Spec.Objective.Mix == "previous" && int(i) > r.Spec.FirstIteration() {
		if err := in.mixIn(ctx, made.reference, out); err != nil {
			return err
		}
	}
	in.task = out
	if len(out.Pairs) == 0 {
		return nil
	}
	return in.weigh(ctx, out)
}

// take adds the pairs of messages to a task, and their distances, if they have any, to the iteration. made names the policies
// that must have made the pairs. take leaves out, logs and counts a pair with an empty response or with tokens that the model
// does not have.
func (in *Iteration) take(messages []events.Message, made makers, out *task.Pairs) error {
	r, i := in.reader, in.number
	for _, m := range messages {
		p := pairOf(m)
		if p == nil {
			return fmt.Errorf("trainer: a message of type %T cannot be trained on", m)
		}
		if p.GetPolicyDigest() != made.sampler {
			return fmt.Errorf("trainer: pair %s was sampled by checkpoint %.12s, but iteration %d starts from %.12s",
				p.ID(), p.GetPolicyDigest(), p.GetIteration(), made.sampler)
		}
		if got := p.ReferenceDigest(); got != made.reference {
			return fmt.Errorf("trainer: pair %s has reference log-probs of checkpoint %.12s, but with objective.reference: %s "+
				"this iteration needs those of %.12s", p.ID(), got, r.Spec.Objective.Reference, made.reference)
		}
		if len(p.GetChosenIds()) == 0 || len(p.GetRejectedIds()) == 0 {
			r.Log.Warn().Str("pair", p.ID()).Msg("a response is empty: the pair is not trained on")
			in.batches.Skipped = append(in.batches.Skipped, checkpoints.Skipped{ID: p.ID(), Reason: schemas.ReasonEmpty})
			continue
		}
		if r.skips(p, &in.batches) {
			continue
		}
		if p.GetTruncated() > 0 {
			in.cut++
		}
		if scored, is := m.(*events.Scored); is && r.Spec.Objective.Kind == "ldalign" {
			in.distances = append(in.distances, scored.GetDistance())
		}
		in.batches.Pairs = append(in.batches.Pairs, p.ID())
		out.Pairs = append(out.Pairs, task.Pair{
			Chosen: models.Join(p.GetPromptIds(), p.GetChosenIds()), Rejected: models.Join(p.GetPromptIds(), p.GetRejectedIds()),
			RefChosen: p.GetChosenLogp(), RefRejected: p.GetRejectedLogp(), Weight: 1,
			Sampled: r.fairSamples() && p.GetPolicyDigest() == made.reference && p.GetIteration() == i,
			Same:    slices.Equal(p.GetChosenIds(), p.GetRejectedIds()),
		})
	}
	return nil
}

// skips reports whether a pair has a token that is not in the vocabulary, and records it as skipped. The stages never write
// such a pair.
func (r *Reader) skips(p *events.Pair, batches *checkpoints.Batches) bool {
	vocabulary := int64(r.Model.Config().Vocab)
	for _, ids := range [][]int64{p.GetPromptIds(), p.GetChosenIds(), p.GetRejectedIds()} {
		if i := slices.IndexFunc(ids, func(id int64) bool { return id < 0 || id >= vocabulary }); i >= 0 {
			r.Log.Warn().Str("pair", p.ID()).
				Msgf("token %d is not in the vocabulary of %d: the pair is not trained on", ids[i], vocabulary)
			batches.Skipped = append(batches.Skipped, checkpoints.Skipped{ID: p.ID(), Reason: schemas.ReasonInvalid})
			return true
		}
	}
	return false
}

// weigh computes the pairs' weights from their distances. Without distances all weights are 1.
func (in *Iteration) weigh(ctx context.Context, out *task.Pairs) error {
	in.metrics = nil
	identical := 0
	w := make([]float64, len(out.Pairs))
	for k, p := range out.Pairs {
		w[k] = p.Weight
		if p.Same {
			identical++
		}
	}
	if len(in.distances) > 0 {
		first, err := in.reader.firstNormaliser(ctx, in.number)
		if err != nil {
			return err
		}
		var normaliser float64
		if w, normaliser, err = objective.Weights(in.distances, in.reader.Spec, in.number, first); err != nil {
			return err
		}
		for k := range out.Pairs {
			out.Pairs[k].Weight, out.Pairs[k].Distance = w[k], in.distances[k]
		}
		in.metrics = append(in.metrics, checkpoints.Metric{Name: objective.NormaliserMetric, Value: normaliser})
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

// makers are the digests of the policies that must have made the pairs of an iteration.
type makers struct {
	// sampler sampled y', and reference computed the reference log-probs.
	sampler, reference string
}

func (r *Reader) makers(ctx context.Context, i uint32) (m makers, err error) {
	if m.sampler, err = r.startsFrom(ctx, i); err != nil {
		return m, err
	}
	m.reference = m.sampler
	if r.Spec.Objective.Reference == "initial" {
		m.reference, err = r.initial(ctx)
	}
	return m, err
}

// initial is the digest of the run's first policy or, for a replay, of the first policy of the run that made the pairs.
func (r *Reader) initial(ctx context.Context) (string, error) {
	run, first := r.Spec.Run, r.Spec.FirstIteration()
	if _, replayed := lineage.Feed(r.Spec, schemas.Pairs); replayed {
		var err error
		if run, first, err = lineage.SampledBy(ctx, r.Streams, r.Spec.Source.Run); err != nil {
			return "", err
		}
	}
	policy, err := r.Checkpoints.Policy(ctx, run, uint32(first))
	if err != nil {
		return "", fmt.Errorf("trainer: the first policy, which is the reference (objective.reference: initial): %w", err)
	}
	return policy.Digest, nil
}

// fairSamples reports whether y' is sampled from the policy's own distribution, as the estimate of KL(ref || p) needs.
func (r *Reader) fairSamples() bool {
	return r.Spec.Samples() && r.Spec.Generation.Temperature == 1 && r.Spec.Generation.TopP == 1
}

// pairOf is the pair that a message is or contains; nil if there is none.
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

// firstNormaliser is S_0, from the manifest of the policy that iteration 0 made.
func (r *Reader) firstNormaliser(ctx context.Context, i uint32) (float64, error) {
	if r.Spec.Objective.Normaliser != "fixed_first" || i == 0 {
		return 0, nil
	}
	spec := r.Spec
	for spec.FirstIteration() > 0 { // iteration 0 was its source's
		var err error
		if spec, err = lineage.Spec(ctx, r.Streams, spec.Source.Run); err != nil {
			return 0, fmt.Errorf("trainer: the run that made iteration 0: %w", err)
		}
	}
	manifest, err := r.Checkpoints.Policy(ctx, spec.Run, 1)
	if err != nil {
		return 0, fmt.Errorf("trainer: the policy made in iteration 0, which has the normaliser "+
			"(objective.normaliser: fixed_first): %w", err)
	}
	for _, m := range manifest.Metrics {
		if m.Name == objective.NormaliserMetric {
			return m.Value, nil
		}
	}
	return 0, fmt.Errorf("trainer: checkpoint %s has no metric %s, which objective.normaliser: fixed_first needs",
		manifest.Key, objective.NormaliserMetric)
}
