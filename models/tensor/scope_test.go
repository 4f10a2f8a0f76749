package tensor_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/ldalign/ldalign/models/tensor"
)

func TestScopeFreesWhatIsNotMovedOut(t *testing.T) {
	e := newEngine(t, 1)
	ctx := context.Background()
	var kept, temporary *tensor.Tensor
	err := e.Do(ctx, func(s *tensor.Scope) error {
		var moved *tensor.Tensor
		err := s.Scope(func(inner *tensor.Scope) error {
			temporary = inner.Ones(tensor.Float32, 2)
			moved = temporary.AddScalar(1).MoveTo(s)
			kept = temporary.AddScalar(2).Keep()
			if inner.Live() != 1 || s.Live() != 1 || e.Live() != 3 {
				t.Errorf("inner owns %d, outer %d, engine counts %d, want 1, 1, 3", inner.Live(), s.Live(), e.Live())
			}
			return nil
		})
		if err != nil {
			return err
		}
		if temporary.Valid() {
			t.Error("a temporary outlived its scope")
		}
		if got := moved.Float32s(); !slices.Equal(got, []float32{2, 2}) {
			t.Errorf("moved tensor is %v, want 2 2", got)
		}
		product := s.Result(func(inner *tensor.Scope) *tensor.Tensor { return moved.Mul(moved.AddScalar(1)) })
		if got := product.Float32s(); !slices.Equal(got, []float32{6, 6}) || s.Live() != 2 {
			t.Errorf("result is %v in a scope of %d, want 6 6 in a scope of 2", got, s.Live())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := e.Live(); n != 1 {
		t.Errorf("%d tensors alive, want the kept one", n)
	}
	err = e.Do(ctx, func(s *tensor.Scope) error {
		if got := kept.Float32s(); !slices.Equal(got, []float32{3, 3}) {
			t.Errorf("kept tensor is %v, want 3 3", got)
		}
		kept.Free()
		kept.Free()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := e.Live(); n != 0 {
		t.Errorf("%d tensors alive, want 0", n)
	}
}

func TestUseAfterFreeIsAnError(t *testing.T) {
	do(t, func(s *tensor.Scope) error {
		var gone *tensor.Tensor
		if err := s.Scope(func(s *tensor.Scope) error { gone = s.Ones(tensor.Float32, 2); return nil }); err != nil {
			return err
		}
		for name, use := range map[string]func(s *tensor.Scope){
			"receiver": func(*tensor.Scope) { gone.Exp() },
			"operand":  func(s *tensor.Scope) { s.Ones(tensor.Float32, 2).Add(gone) },
			"list":     func(s *tensor.Scope) { s.Cat(0, s.Ones(tensor.Float32, 2), gone) },
			"reader":   func(*tensor.Scope) { gone.Item() },
			"nil":      func(s *tensor.Scope) { s.Ones(tensor.Float32, 2).Matmul(nil) },
			"keep":     func(*tensor.Scope) { gone.Keep() },
		} {
			err := s.Scope(func(s *tensor.Scope) error { use(s); return nil })
			if !errors.Is(err, tensor.ErrInvalid) {
				t.Errorf("%s: got %v, want ErrInvalid", name, err)
			}
		}
		return nil
	})
}

func TestInnerErrorIsTheCallers(t *testing.T) {
	do(t, func(s *tensor.Scope) error {
		err := s.Scope(func(s *tensor.Scope) error { mismatch(s, 3); return nil })
		if err == nil {
			t.Error("Scope returned no error")
		}
		if s.Err() != nil || s.Ones(tensor.Float32, 2).Sum().Item() != 2 {
			t.Errorf("the outer scope failed as well: %v", s.Err())
		}
		return nil
	})
}

func TestResultPassesTheCauseOn(t *testing.T) {
	err := newEngine(t, 1).Do(context.Background(), func(s *tensor.Scope) error {
		s.Result(func(s *tensor.Scope) *tensor.Tensor { return mismatch(s, 3).Exp() }).Add(s.Ones(tensor.Float32, 1))
		return nil
	})
	var op *tensor.OpError
	if !errors.As(err, &op) || op.Op != "Matmul" {
		t.Errorf("got %v, want Matmul's error", err)
	}
}

func TestClosedScopePanicsIntoAnError(t *testing.T) {
	err := newEngine(t, 1).Do(context.Background(), func(s *tensor.Scope) error {
		var escaped *tensor.Scope
		if err := s.Scope(func(inner *tensor.Scope) error { escaped = inner; return nil }); err != nil {
			return err
		}
		escaped.Ones(tensor.Float32, 1)
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "after its end") {
		t.Errorf("got %v, want an error about a scope after its end", err)
	}
}

func TestNoGradNests(t *testing.T) {
	recording := func(s *tensor.Scope) bool {
		return s.Ones(tensor.Float32, 1).RequiresGrad_(true).Exp().RequiresGrad()
	}
	do(t, func(s *tensor.Scope) error {
		failure := errors.New("failure")
		err := s.NoGrad(func(s *tensor.Scope) error {
			if recording(s) {
				t.Error("recording inside NoGrad")
			}
			if err := s.NoGrad(func(*tensor.Scope) error { return failure }); !errors.Is(err, failure) {
				t.Errorf("inner NoGrad returned %v", err)
			}
			if recording(s) {
				t.Error("recording after an inner NoGrad that failed")
			}
			return s.Scope(func(s *tensor.Scope) error {
				return s.NoGrad(func(s *tensor.Scope) error { mismatch(s, 3); return nil })
			})
		})
		if err == nil {
			t.Error("NoGrad lost the tensor error")
		}
		if !recording(s) {
			t.Error("not recording after NoGrad")
		}
		return nil
	})
}

// Collections of garbage at any moment must not touch native memory: nothing is finalized.
func TestGarbageCollectionStress(t *testing.T) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
			}
		}
	}()
	do(t, func(s *tensor.Scope) error {
		w := s.Ones(tensor.Float32, 64, 64).RequiresGrad_(true)
		for i := range 300 {
			err := s.Scope(func(s *tensor.Scope) error {
				x := s.Full(tensor.Float32, float64(i), 8, 64)
				y := s.Cat(0, x, x).Linear(w, nil).Reshape(-1).Sum()
				if want := float64(i) * 64 * 64 * 16; y.Item() != want {
					t.Errorf("round %d: %v, want %v", i, y.Item(), want)
				}
				g := gradients(s, y, []*tensor.Tensor{w})[0]
				if want := float64(16 * i); g.Select(0, 3).Select(0, 5).Item() != want {
					t.Errorf("round %d: gradient %v, want %v", i, g.Select(0, 3).Select(0, 5).Item(), want)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	close(stop)
	<-stopped
}
