package runs

import (
	"context"
	"errors"
	"fmt"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/ledger"
	"github.com/ldalign/ldalign/trainer/lineage"
	"github.com/ldalign/ldalign/trainer/objective"
)

// AuditOptions say which part of a run Audit covers, and how much it reports.
type AuditOptions struct {
	// Iteration is one iteration, or streams.AllIterations.
	Iteration int
	// Names is the greatest number of pairs that a finding names; a negative number means all.
	Names int
	// Progress is called with the number of messages read so far, and the total.
	Progress func(done, total uint64)
}

// Audit balances the iterations of a run: it compares the run's logs with the trainer's record in its policies.
func Audit(ctx context.Context, s *Session, spec schemas.Spec, o AuditOptions) ([]ledger.Balance, error) {
	announced, err := announcedPolicies(ctx, s, spec.Run) // read before the store, since a policy is stored before the log names it
	if err != nil {
		return nil, err
	}
	policies, err := policiesOf(ctx, s, spec.Run)
	if err != nil {
		return nil, err
	}
	feed, _ := lineage.Feed(spec, objective.TrainsFrom(spec.Objective.Kind))
	audit := ledger.AuditOptions{
		Iteration: o.Iteration, Source: feed.Kind, Names: o.Names, First: uint32(spec.FirstIteration()), Progress: o.Progress,
		Record: func(ctx context.Context, i uint32) (ledger.Record, error) {
			r, err := recordOf(ctx, s, policies, i)
			if digest, made := announced[i+1]; made && !r.Done {
				r.Done, r.Problem = true, fmt.Sprintf("the log names policy %d (%.12s), but the checkpoint store does not have it: "+
					"restore it from a copy", i+1, digest)
			}
			if _, replayed := lineage.Feed(spec, schemas.Pairs); err == nil && replayed {
				var origin checkpoints.Manifest
				origin, err = lineage.Origin(ctx, s.Streams, s.Checkpoints, spec.Source.Run, i)
				r.Policy = origin.Digest
			}
			return r, err
		},
	}
	if given, ok := lineage.Given(spec); ok {
		audit.Given = &given
	}
	for i := range policies {
		audit.Trained = max(audit.Trained, i)
	}
	for i := range announced {
		audit.Trained = max(audit.Trained, i)
	}
	return ledger.Audit(ctx, s.Streams, spec.Run, audit)
}

// policiesOf returns a run's newest policy of each iteration.
func policiesOf(ctx context.Context, s *Session, run string) (map[uint32]checkpoints.Manifest, error) {
	manifests, err := s.Checkpoints.List(ctx, run)
	if err != nil {
		return nil, err
	}
	policies := map[uint32]checkpoints.Manifest{}
	for _, m := range manifests {
		if m.Kind == checkpoints.Policy {
			policies[m.Iteration] = m
		}
	}
	return policies, nil
}

// announcedPolicies returns the digests of the policies that a run's log names, by iteration.
func announcedPolicies(ctx context.Context, s *Session, run string) (map[uint32]string, error) {
	named := map[uint32]string{}
	err := s.Streams.Read(ctx, schemas.Checkpoints, run, streams.AllIterations, 0, func(r streams.Received) error {
		if c, ok := r.Message.(*events.Checkpoint); ok && c.GetKind() == string(checkpoints.Policy) {
			named[c.GetIteration()] = c.GetDigest()
		}
		return nil
	})
	return named, err
}

// recordOf returns the trainer's record of an iteration: the pairs that the next policy's manifest names.
func recordOf(
	ctx context.Context, s *Session, policies map[uint32]checkpoints.Manifest, iteration uint32,
) (ledger.Record, error) {
	r := ledger.Record{Policy: policies[iteration].Digest}
	made, done := policies[iteration+1]
	if !done {
		return r, nil
	}
	r.Done = true
	if _, known := made.File(checkpoints.BatchesFile); !known {
		return r, nil
	}
	batches, err := s.Checkpoints.Batches(ctx, made)
	if errors.Is(err, checkpoints.ErrBatches) {
		r.Problem = err.Error()
	} else if err != nil {
		return r, err
	}
	r.Known, r.Pairs = true, batches.Pairs[:len(batches.Pairs)-batches.Earlier] // pairs of earlier iterations are audited with those
	for _, skipped := range batches.Skipped {
		r.Skipped = append(r.Skipped, ledger.Skip{ID: skipped.ID, Reason: skipped.Reason})
	}
	return r, nil
}
