package runs

import (
	"context"
	"errors"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/ops/runs/derive"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/ledger"
	"github.com/ldalign/ldalign/trainer/lineage"
)

// Facts reads the facts that a plan needs about its parent. Facts note what the parent lacks; that is no error.
func Facts(ctx context.Context, s *Session, parent schemas.Spec, needs derive.Needs) (derive.Facts, error) {
	facts := derive.Facts{
		Declared: map[string]schemas.Spec{}, Policies: map[int]derive.Policy{}, Parts: map[int]derive.Part{},
	}
	for _, run := range needs.Runs {
		spec, err := lineage.Spec(ctx, s.Streams, run)
		if errors.Is(err, streams.ErrNotFound) {
			continue
		}
		if err != nil {
			return facts, err
		}
		facts.Declared[run] = spec
	}
	for _, number := range needs.Policies {
		policy, err := policyFact(ctx, s, parent.Run, number)
		if err != nil {
			return facts, err
		}
		facts.Policies[number] = policy
	}
	for i := needs.First; i < needs.End; i++ {
		part, err := ledger.Survey(ctx, s.Streams, needs.Kind, parent.Run, uint32(i), uint32(i+1))
		if err != nil && !errors.Is(err, streams.ErrIncomplete) {
			return facts, err
		}
		facts.Parts[i] = derive.Part{First: part.First, Last: part.Last, Missing: err}
	}
	if needs.Guide {
		_, err := s.Checkpoints.Latest(ctx, parent.Run, checkpoints.Guide)
		if err != nil && !errors.Is(err, checkpoints.ErrNoCheckpoint) {
			return facts, err
		}
		facts.Guide = err == nil
	}
	return facts, nil
}

// policyFact looks up a policy of a run by its iteration, or its newest.
func policyFact(ctx context.Context, s *Session, run string, number int) (derive.Policy, error) {
	m, err := s.Checkpoints.PolicyOf(ctx, schemas.PolicyRef{Run: run, Iteration: number})
	if err == nil {
		err = s.Checkpoints.Whole(ctx, m)
	}
	if err != nil && !errors.Is(err, checkpoints.ErrNoCheckpoint) && !errors.Is(err, checkpoints.ErrExpired) {
		return derive.Policy{}, err
	}
	return derive.Policy{Iteration: int(m.Iteration), Digest: m.Digest, Missing: err}, nil
}
