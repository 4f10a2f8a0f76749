package loop

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/trainer/ranks"
)

// TestHeldWithABrokenGroup: a trainer that is held does not wait for its release when a rank is gone.
func TestHeldWithABrokenGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		group := ranks.New(newEngine(t), &tensor.Group{Size: 2}) // nobody has joined it
		p := &Phase{
			Config:  Config{Shared: &Shared{Group: group}, Hold: func(ctx context.Context) { <-ctx.Done() }},
			stepper: &stepper{ranks: group},
		}
		if err := p.hold(t.Context()); !errors.Is(err, tensor.ErrGroup) {
			t.Errorf("got %v, want ErrGroup", err)
		}
	})
}
