package main

import (
	"context"

	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/schemas"
)

// specsOf are the specs of named runs; runs.ErrNoSuchRun names one that is not declared.
func (n *node) specsOf(ctx context.Context, names []string) ([]schemas.Spec, error) {
	specs := make([]schemas.Spec, len(names))
	for i, name := range names {
		var err error
		if specs[i], err = runs.Spec(ctx, n.Session, name); err != nil {
			return nil, err
		}
	}
	return specs, nil
}
