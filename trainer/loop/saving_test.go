package loop

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/checkpoints"
)

// TestStepsGoOnWhileAStateIsWritten: the commit of the first state ends only after the second step was made; that of the
// second begins only then, and the phase ends after it.
func TestStepsGoOnWhileAStateIsWritten(t *testing.T) {
	engine := newEngine(t)
	reached := make(chan struct{})
	var order []string
	p := newPhase(t, engine, loadModel(t, engine, "llama"), func(c *Config) {
		c.Plan.Every, c.Plan.Epochs = 1, 1 // 3 steps, and a state after the first and the second
		c.Saver = saver(func(at checkpoints.Cursor) (func() error, error) {
			if at.Step == 1 {
				return func() error { <-reached; order = append(order, "first"); return nil }, nil
			}
			return func() error { order = append(order, "second"); return nil }, nil
		})
		c.Observer = observer(func(done, _ int) {
			if done == 2 {
				close(reached)
			}
		})
	})
	if err := p.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"first", "second"}, order); diff != "" {
		t.Errorf("commits (-want +got):\n%s", diff)
	}
}

// TestStateThatCannotBeWrittenStopsTheRun, also when the training was over before that was known.
func TestStateThatCannotBeWrittenStopsTheRun(t *testing.T) {
	engine := newEngine(t)
	full := errors.New("disk full")
	for _, atOnce := range []bool{true, false} {
		over := make(chan struct{})
		p := newPhase(t, engine, loadModel(t, engine, "llama"), func(c *Config) {
			c.Plan.Every = 5 // of 6 steps
			c.Saver = saver(func(checkpoints.Cursor) (func() error, error) {
				if atOnce {
					return nil, full
				}
				return func() error { <-over; return full }, nil
			})
			c.Observer = observer(func(done, total int) {
				if done == total {
					close(over)
				}
			})
		})
		if err := p.Run(t.Context()); !errors.Is(err, full) {
			t.Errorf("at once %v: got %v, want the store's error", atOnce, err)
		}
	}
}
