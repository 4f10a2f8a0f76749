package trainer

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tokenizer"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
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
	work := fmt.Sprintf("wait for %s %d", kind, i)
	got, err := t.Streams.Collect(ctx, kind, t.Spec.Run, i, func(have, total int) {
		t.Meter.Progress(work, have, total, "pairs")
	})
	if err != nil {
		return nil, 0, err
	}
	upTo := got.Last
	if t.resumes(phase, i) {
		upTo = t.resume.Cursor.Sequence
		if got.Last < upTo {
			return nil, 0, fmt.Errorf("trainer: stream %s of run %s ends at sequence %d, but the checkpoint's cursor is at %d: "+
				"messages were lost from the log; restore the stream's store", kind, t.Spec.Run, got.Last, upTo)
		}
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

// collect makes the task of iteration i from the log, with what the manifest will say about its pairs.
func (t *Trainer) collect(ctx context.Context, i uint32) (task, uint64, []checkpoints.Metric, error) {
	kind := Source(t.Spec.Objective.Kind)
	messages, upTo, err := t.messages(ctx, policyPhase, kind, i)
	if err != nil {
		return nil, 0, nil, err
	}
	if kind == schemas.Prompts {
		task, metrics, err := t.sequences(messages)
		return task, upTo, metrics, err
	}
	task, metrics, err := t.pairs(ctx, messages, i)
	return task, upTo, metrics, err
}

// sequences makes the SFT task. Prompts that the length rule refuses are logged, counted and not trained on.
func (t *Trainer) sequences(messages []events.Message) (task, []checkpoints.Metric, error) {
	out := &sequenceTask{model: t.model, step: t.Spec.Generation.Bucket, most: t.model.Config().MaxLength()}
	limits := tokenizer.Limits{
		Prompt: t.Spec.Data.MaxPromptTokens, Response: t.Spec.Data.MaxResponseTokens, Reject: t.Spec.Data.Overlong == "reject",
	}
	refused, cut := 0, 0
	for _, m := range messages {
		p := m.(*events.Prompt)
		tokens, err := t.format.Fit(p.GetPrompt(), p.GetResponse(), limits)
		if err != nil {
			t.Log.Warn().Str("pair", p.ID()).Err(err).Msg("prompt is not trained on")
			refused++
			continue
		}
		if tokens.Cut > 0 {
			cut++
		}
		out.rows = append(out.rows, models.Join(tokens.Prompt, tokens.Response))
	}
	if len(out.rows) == 0 {
		return nil, nil, errors.New("trainer: the length rule or the template refused every prompt; the log says why for each")
	}
	t.tellCut(cut, len(out.rows))
	return out, []checkpoints.Metric{
		{Name: "pairs", Value: float64(len(out.rows))}, {Name: "refused", Value: float64(refused)},
	}, nil
}

// tellCut says how many examples the length rule has cut.
func (t *Trainer) tellCut(cut, of int) {
	if cut > 0 {
		t.Log.Warn().Str("run", t.Spec.Run).Msgf("%d of %d pairs were cut to data.max_prompt_tokens or max_response_tokens "+
			"(raise them, or have such pairs dead-lettered by data.overlong: reject)", cut, of)
	}
}

// pairs makes the task of equation (LD) and the figures of its weights.
func (t *Trainer) pairs(ctx context.Context, messages []events.Message, i uint32) (task, []checkpoints.Metric, error) {
	out := &pairTask{
		model: t.model, beta: t.Spec.Objective.Beta, step: t.Spec.Generation.Bucket, most: t.model.Config().MaxLength(),
	}
	var distances []float64
	cut := 0
	for _, m := range messages {
		p, ok := m.(*events.Pair)
		if scored, is := m.(*events.Scored); is {
			p, ok = scored.GetPair(), true
			distances = append(distances, scored.GetDistance())
		}
		if !ok {
			return nil, nil, fmt.Errorf("trainer: a %T cannot be trained on", m)
		}
		if p.GetWeights() != t.base.Digest {
			return nil, nil, fmt.Errorf("trainer: pair %s was made by checkpoint %.12s, but iteration %d starts from %.12s: "+
				"its log-probs are not this iteration's reference", p.ID(), p.GetWeights(), i, t.base.Digest)
		}
		if p.GetTruncated() > 0 {
			cut++
		}
		out.pairs = append(out.pairs, pair{
			chosen: models.Join(p.GetPromptIds(), p.GetChosenIds()), rejected: models.Join(p.GetPromptIds(), p.GetRejectedIds()),
			refChosen: p.GetChosenLogp(), refRejected: p.GetRejectedLogp(), weight: 1,
			same: slices.Equal(p.GetChosenIds(), p.GetRejectedIds()),
		})
	}
	t.tellCut(cut, len(out.pairs))
	if len(distances) == 0 {
		return out, nil, nil
	}
	first, err := t.firstNormaliser(ctx, i)
	if err != nil {
		return nil, nil, err
	}
	w, normaliser, err := Weights(distances, t.Spec.Objective, t.Spec.Seed, i, first)
	if err != nil {
		return nil, nil, err
	}
	identical := 0
	for k := range out.pairs {
		out.pairs[k].weight = w[k]
		if out.pairs[k].same {
			identical++
		}
	}
	return out, []checkpoints.Metric{
		{Name: normaliserMetric, Value: normaliser},
		{Name: "weight_max", Value: slices.Max(w)},
		{Name: "effective_sample_size", Value: EffectiveSampleSize(w)},
		{Name: "identical_share", Value: float64(identical) / float64(len(w))},
		{Name: "pairs", Value: float64(len(w))},
	}, nil
}

const normaliserMetric = "normaliser"

// firstNormaliser is S_0, kept in the manifest of the policy that iteration 0 made.
func (t *Trainer) firstNormaliser(ctx context.Context, i uint32) (float64, error) {
	if t.Spec.Objective.Normaliser != "fixed_first" || i == 0 {
		return 0, nil
	}
	manifest, err := t.Checkpoints.Policy(ctx, t.Spec.Run, 1)
	if err != nil {
		return 0, err
	}
	for _, m := range manifest.Metrics {
		if m.Name == normaliserMetric {
			return m.Value, nil
		}
	}
	return 0, fmt.Errorf("trainer: checkpoint %s names no %s, which objective.normaliser: fixed_first needs",
		manifest.Key, normaliserMetric)
}
