package generator_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/models/tensor/tensortest"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/stages/stagetest"
)

// The cache of 128 Ki slots takes 1.5 GB. No prompt is to blame, so none may become a dead letter.
func TestOutOfMemory(t *testing.T) {
	f := stagetest.New(t, func(s *schemas.Spec) { s.Generation.Slots = 1 << 17 })
	prompts := f.Prompts(f.Policy(0, 1))
	stage := open(t, f)
	tensortest.LimitMemory(t, 256<<20)
	_, errs := stage.Process(t.Context(), prompts, nil)
	for i, err := range errs {
		unavailable := new(schemas.Unavailable)
		if !errors.As(err, &unavailable) || !unavailable.Permanent || !errors.As(err, new(*tensor.OutOfMemory)) {
			t.Fatalf("prompt %d: got %v, want a permanent Unavailable because of short memory", i, err)
		}
		if !strings.Contains(err.Error(), "cpu is out of memory") || !strings.Contains(err.Error(), "generation.slots") {
			t.Errorf("%q does not say what is short and what to change", err)
		}
	}
}
