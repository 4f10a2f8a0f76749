package trainer_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/models/tensor/tensortest"
	"github.com/ldalign/ldalign/schemas"
)

// The activations of a feed-forward layer of 256 Ki take some 300 MB.
func TestOutOfMemory(t *testing.T) {
	w := newWorld(t)
	spec := testSpec("wide", func(s *schemas.Spec) {
		s.Model.Scratch.Intermediate, s.Objective.Kind, s.Iterations = 1<<18, "sft", 1
	})
	ctx, stop := context.WithCancel(t.Context())
	group, ctx := errgroup.WithContext(ctx)
	w.startStages(ctx, group, spec)
	trainer := w.trainer(spec, silent)
	limit := sync.OnceFunc(func() { tensortest.LimitMemory(t, 64<<20) })
	trainer.Hold = func(context.Context) { limit() } // before the first step
	err := trainer.Run(ctx)
	stop()
	if staged := group.Wait(); staged != nil {
		t.Error(staged)
	}
	if !errors.As(err, new(*tensor.OutOfMemory)) || !strings.Contains(err.Error(), "training.micro_tokens") {
		t.Errorf("got %v, want an error that says what is short and what to change", err)
	}
}
