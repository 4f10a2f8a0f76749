package trainer

import (
	"context"
	"fmt"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/trainer/activity"
	"github.com/ldalign/ldalign/trainer/lineage"
	"github.com/ldalign/ldalign/trainer/objective"
)

// mixIn adds the pairs of iteration i-1 to the task of iteration i. They are those that were
// trained then, in that order, by the record of policy i; a letter redriven since does not change them. Where the
// reference is the previous policy, their log-probs are computed anew under it: t.model is that policy until the
// iteration's first step, so no second model is needed, and a trainer that goes on computes the same.
func (t *Trainer) mixIn(ctx context.Context, i uint32, reference string, out *pairTask, in *intake) error {
	before, err := t.sampler(ctx, i-1)
	if err != nil {
		return err
	}
	record, err := t.Checkpoints.Batches(ctx, t.base)
	if err != nil {
		return err
	}
	messages, _, err := t.messages(ctx, "", objective.TrainsFrom(t.Spec.Objective.Kind), i-1)
	if err != nil {
		return err
	}
	byID := make(map[string]events.Message, len(messages))
	for _, m := range messages {
		byID[m.ID()] = m
	}
	trained := record.Pairs[:len(record.Pairs)-record.Earlier]
	earlier := make([]events.Message, len(trained))
	for k, id := range trained {
		m, ok := byID[id]
		if !ok {
			return fmt.Errorf("trainer: pair %s of iteration %d is no longer in the log, but objective.mix: previous trains it "+
				"once more: restore the stream's store, or raise streams.max_age", id, i-1)
		}
		earlier[k] = m
	}
	anew := t.Spec.Objective.Reference != "initial"
	was := reference
	if anew {
		was = before // of the log-probs that the pairs have now
	}
	own := len(out.pairs)
	if err := t.take(earlier, before, was, i, out, in); err != nil {
		return err
	}
	in.batches.Earlier = len(out.pairs) - own
	if anew {
		return t.refer(ctx, out, own)
	}
	return nil
}

// sampler is the manifest digest of the policy that sampled the pairs of an iteration that is trained.
func (t *Trainer) sampler(ctx context.Context, i uint32) (string, error) {
	if _, replayed := lineage.Feed(t.Spec, schemas.Pairs); replayed {
		origin, err := lineage.Origin(ctx, t.Streams, t.Checkpoints, t.Spec.Source.Run, i)
		return origin.Digest, err
	}
	policy, err := t.Checkpoints.Policy(ctx, t.Spec.Run, i)
	return policy.Digest, err
}

// refer computes the reference log-probs of the task's pairs from number from on by the model as it is, a micro-batch at
// a time.
func (t *Trainer) refer(ctx context.Context, task *pairTask, from int) error {
	pairs := task.pairs[from:]
	size := t.Spec.Training.MicroBatch
	for at := 0; at < len(pairs); at += size {
		part := pairs[at:min(at+size, len(pairs))]
		rows := make([]models.Sequence, 0, 2*len(part))
		for _, p := range part {
			rows = append(rows, p.chosen, p.rejected)
		}
		err := t.Engine.Do(ctx, func(s *tensor.Scope) error {
			return s.NoGrad(func(s *tensor.Scope) error {
				logp := models.TrainLogProbs(s, t.model, rows, task.compute).Float32s()
				if err := s.Err(); err != nil {
					return err
				}
				for k := range part {
					part[k].refChosen, part[k].refRejected = float64(logp[2*k]), float64(logp[2*k+1])
				}
				return nil
			})
		})
		if err != nil {
			return fmt.Errorf("trainer: reference log-probs of the pairs of the iteration before: %w", err)
		}
		t.Meter.Observe(activity.Referring{Work: t.work(policyPhase, t.base.Iteration, min(at+size, len(pairs)), len(pairs))})
	}
	return nil
}
