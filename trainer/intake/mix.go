package intake

import (
	"context"
	"fmt"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/trainer/activity"
	"github.com/ldalign/ldalign/trainer/lineage"
	"github.com/ldalign/ldalign/trainer/schedule"
	"github.com/ldalign/ldalign/trainer/task"
)

// mixIn adds the pairs of the previous iteration to the task: those that the base policy was trained on, in the same order,
// as its record says. So a dead letter that was redriven since does not change them. If the reference is the previous policy,
// mixIn computes their reference log-probs again. The model is that policy until the iteration's first step, so no second
// model is needed, and a resumed trainer computes the same.
func (in *Iteration) mixIn(ctx context.Context, reference string, out *task.Pairs) error {
	r, before := in.reader, in.number-1
	sampler, err := r.sampler(ctx, before)
	if err != nil {
		return err
	}
	record, err := r.Checkpoints.Batches(ctx, r.Base)
	if err != nil {
		return err
	}
	messages, _, err := r.messages(ctx, "", in.kind, before)
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
			return fmt.Errorf("trainer: pair %s of iteration %d is no longer in the log, but objective.mix: previous needs it again: "+
				"restore the stream's store, or raise streams.max_age", id, before)
		}
		earlier[k] = m
	}
	anew := r.Spec.Objective.Reference != "initial"
	made := makers{sampler, reference}
	if anew {
		made.reference = sampler // the pairs still have its log-probs
	}
	own := len(out.Pairs)
	if err := in.take(earlier, made, out); err != nil {
		return err
	}
	in.batches.Earlier = len(out.Pairs) - own
	if anew {
		return in.refer(ctx, out, own)
	}
	return nil
}

// sampler is the manifest digest of the policy that sampled the pairs of an earlier iteration.
func (r *Reader) sampler(ctx context.Context, i uint32) (string, error) {
	if _, replayed := lineage.Feed(r.Spec, schemas.Pairs); replayed {
		origin, err := lineage.Origin(ctx, r.Streams, r.Checkpoints, r.Spec.Source.Run, i)
		return origin.Digest, err
	}
	policy, err := r.Checkpoints.Policy(ctx, r.Spec.Run, i)
	return policy.Digest, err
}

// refer computes the reference log-probs of the task's pairs from number from on with the current model, one micro-batch at
// a time.
func (in *Iteration) refer(ctx context.Context, t *task.Pairs, from int) error {
	r, pairs := in.reader, t.Pairs[from:]
	size := r.Spec.Training.MicroBatch
	for at := 0; at < len(pairs); at += size {
		part := pairs[at:min(at+size, len(pairs))]
		rows := make([]models.Sequence, 0, 2*len(part))
		for _, p := range part {
			rows = append(rows, p.Chosen, p.Rejected)
		}
		err := r.Engine.Do(ctx, func(s *tensor.Scope) error {
			return s.NoGrad(func(s *tensor.Scope) error {
				logp := models.TrainLogProbs(s, r.Model, rows, t.Compute).Float32s()
				if err := s.Err(); err != nil {
					return err
				}
				for k := range part {
					part[k].RefChosen, part[k].RefRejected = float64(logp[2*k]), float64(logp[2*k+1])
				}
				return nil
			})
		})
		if err != nil {
			return fmt.Errorf("trainer: reference log-probs of the previous iteration's pairs: %w", err)
		}
		r.Observe(activity.Referring{Work: r.work(schedule.Policy, in.number, min(at+size, len(pairs)), len(pairs))})
	}
	return nil
}
