package trainer

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/lineage"
)

// inherit makes the run's first policy from the source's policy that the spec names.
func (t *Trainer) inherit(ctx context.Context) (checkpoints.Manifest, error) {
	s := t.Spec.Source
	from, err := t.Checkpoints.ByDigest(ctx, s.Run, s.Policy)
	if err != nil {
		return from, fmt.Errorf("trainer: the policy that this run starts from: %w", err)
	}
	files, known, err := t.policyFiles(ctx, from)
	if err != nil {
		return from, err
	}
	lineage, err := lineageSource(*s)
	if err != nil {
		return from, err
	}
	return t.Checkpoints.Commit(ctx, t.Spec.Run, checkpoints.Draft{
		Kind: checkpoints.Policy, Iteration: uint32(t.Spec.FirstIteration()), Parent: from.Digest, SpecDigest: t.Spec.Digest(),
		Metrics: known, Files: append(files, lineage),
	})
}

func lineageSource(s schemas.SourceSpec) (checkpoints.Source, error) {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return checkpoints.Source{}, fmt.Errorf("trainer: lineage: %w", err)
	}
	return checkpoints.FromBytes(lineage.File, append(data, '\n')), nil
}
