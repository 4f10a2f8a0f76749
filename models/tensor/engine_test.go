package tensor_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/ldalign/ldalign/models/tensor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// mismatch fails in libtorch, with a message that names n.
func mismatch(s *tensor.Scope, n int64) *tensor.Tensor {
	return s.Ones(tensor.Float32, 2, n).Matmul(s.Ones(tensor.Float32, n+1, 2))
}

func TestErrorComesBackFromDo(t *testing.T) {
	e := newEngine(t, 1)
	reached := false
	err := e.Do(context.Background(), func(s *tensor.Scope) error {
		x := mismatch(s, 3)
		if x.Valid() {
			t.Error("the failed operation gave a valid tensor")
		}
		y := x.Exp().Add(s.Ones(tensor.Float32, 2)).Linear(x, nil)
		if y.Valid() || y.Item() != 0 || y.Float32s() != nil || y.Shape() != nil {
			t.Error("an operation after an error gave something")
		}
		x.Keep()
		reached = true
		return nil
	})
	var op *tensor.OpError
	if !errors.As(err, &op) {
		t.Fatalf("Do returned %v, want an OpError", err)
	}
	if op.Op != "Matmul" || !strings.Contains(op.Message, "2x3 and 4x2") || strings.Contains(op.Message, "\n") {
		t.Errorf("error is %q, want Matmul's with both shapes in one line", err)
	}
	if !reached {
		t.Error("the function did not run to its end")
	}
	if n := e.Live(); n != 0 {
		t.Errorf("%d tensors alive after Do", n)
	}
	if err := e.Do(context.Background(), func(s *tensor.Scope) error { return s.Err() }); err != nil {
		t.Errorf("the next Do has the error as well: %v", err)
	}
}

func TestFunctionsErrorWins(t *testing.T) {
	want := errors.New("mine")
	err := newEngine(t, 1).Do(context.Background(), func(s *tensor.Scope) error {
		mismatch(s, 3)
		return want
	})
	if !errors.Is(err, want) {
		t.Errorf("Do returned %v, want f's own error", err)
	}
}

// Every goroutine gets the outcome of its own function, whatever the others do on the same or another engine.
func TestErrorsLandWhereTheyBelong(t *testing.T) {
	for _, engines := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d engines", engines), func(t *testing.T) {
			var es []*tensor.Engine
			for range engines {
				es = append(es, newEngine(t, 1))
			}
			var wg sync.WaitGroup
			for g := range 24 {
				wg.Go(func() {
					for i := range 25 {
						n := int64(100*g + i + 1)
						fails := (g+i)%2 == 0
						var sum float64
						err := es[g%engines].Do(context.Background(), func(s *tensor.Scope) error {
							if fails {
								mismatch(s, n)
							} else {
								sum = s.Ones(tensor.Float32, n).Sum().Item()
							}
							return nil
						})
						switch {
						case fails && (err == nil || !strings.Contains(err.Error(), fmt.Sprintf("(2x%d and %dx2)", n, n+1))):
							t.Errorf("goroutine %d: got %v, want an error about %d", g, err, n)
						case !fails && (err != nil || sum != float64(n)):
							t.Errorf("goroutine %d: got %v, %v, want %d and no error", g, sum, err, n)
						}
					}
				})
			}
			wg.Wait()
			for _, e := range es {
				if n := e.Live(); n != 0 {
					t.Errorf("%d tensors alive at the end", n)
				}
			}
		})
	}
}

func TestPanicBecomesError(t *testing.T) {
	e := newEngine(t, 1)
	cause := errors.New("cause")
	err := e.Do(context.Background(), func(s *tensor.Scope) error {
		return s.NoGrad(func(s *tensor.Scope) error {
			return s.Scope(func(s *tensor.Scope) error {
				s.Ones(tensor.Float32, 3)
				panic(cause)
			})
		})
	})
	if !errors.Is(err, cause) || !strings.Contains(err.Error(), "engine_test.go") {
		t.Errorf("Do returned %v, want the cause and the stack", err)
	}
	err = e.Do(context.Background(), func(s *tensor.Scope) error {
		if !s.Ones(tensor.Float32, 1).RequiresGrad_(true).Exp().RequiresGrad() {
			t.Error("the panic left gradients switched off")
		}
		return nil
	})
	if err != nil {
		t.Errorf("Do after a panic: %v", err)
	}
	if n := e.Live(); n != 0 {
		t.Errorf("%d tensors alive after a panic", n)
	}
}

// testing.T.FailNow in f ends the engine's goroutine; nobody may hang because of that.
func TestGoexitClosesTheEngine(t *testing.T) {
	e := newEngine(t, 1)
	err := e.Do(context.Background(), func(s *tensor.Scope) error {
		s.Ones(tensor.Float32, 3).Keep()
		runtime.Goexit()
		return nil
	})
	if err == nil {
		t.Error("Do returned no error")
	}
	if err := e.Do(context.Background(), func(*tensor.Scope) error { return nil }); !errors.Is(err, tensor.ErrClosed) {
		t.Errorf("Do afterwards returned %v, want ErrClosed", err)
	}
}

func TestClose(t *testing.T) {
	e := newEngine(t, 1)
	started, proceed := make(chan struct{}), make(chan struct{})
	running, closed := make(chan error, 1), make(chan error, 1)
	go func() {
		running <- e.Do(context.Background(), func(s *tensor.Scope) error {
			s.Ones(tensor.Float32, 3).Keep()
			close(started)
			<-proceed
			if got := s.Ones(tensor.Float32, 4).Sum().Item(); got != 4 {
				return fmt.Errorf("sum is %v, want 4", got)
			}
			return nil
		})
	}()
	<-started
	go func() { closed <- e.Close() }()
	// The engine is busy, so this returns only because Close was called.
	if err := e.Do(context.Background(), func(*tensor.Scope) error { return nil }); !errors.Is(err, tensor.ErrClosed) {
		t.Errorf("waiting Do returned %v, want ErrClosed", err)
	}
	select {
	case err := <-closed:
		t.Errorf("Close did not wait for the running Do: it returned %v", err)
	default:
	}
	close(proceed)
	if err := <-running; err != nil {
		t.Errorf("running Do returned %v", err)
	}
	if err := <-closed; err != nil {
		t.Errorf("Close returned %v", err)
	}
	if n := e.Live(); n != 0 {
		t.Errorf("%d tensors alive after Close", n)
	}
	if err := e.Close(); err != nil {
		t.Errorf("second Close returned %v", err)
	}
	if err := e.Do(context.Background(), func(*tensor.Scope) error { return nil }); !errors.Is(err, tensor.ErrClosed) {
		t.Errorf("Do after Close returned %v, want ErrClosed", err)
	}
}

func TestDoWaitsInLine(t *testing.T) {
	e := newEngine(t, 1)
	started, proceed := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- e.Do(context.Background(), func(*tensor.Scope) error {
			close(started)
			<-proceed
			return nil
		})
	}()
	<-started
	ctx, cancel := context.WithCancel(context.Background())
	cancelled := make(chan error, 1)
	go func() {
		cancelled <- e.Do(ctx, func(*tensor.Scope) error {
			t.Error("a function ran whose context had ended before")
			return nil
		})
	}()
	cancel()
	if err := <-cancelled; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled Do returned %v, want context.Canceled", err)
	}
	close(proceed)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if e.Busy() <= 0 {
		t.Error("Busy is 0 after work was done")
	}
}

// Work of DoFirst runs before work of Do that came earlier, and a reserved engine waits for more of it; but after 32 functions
// it is the turn of Do.
func TestDoFirst(t *testing.T) {
	e := newEngine(t, 1)
	ctx := t.Context()
	var order []string // written on the engine's thread alone
	run := func(name string) func(*tensor.Scope) error {
		return func(*tensor.Scope) error { order = append(order, name); return nil }
	}
	var wg sync.WaitGroup
	started, proceed := make(chan struct{}), make(chan struct{})
	wg.Go(func() {
		if err := e.Do(ctx, func(*tensor.Scope) error { close(started); <-proceed; return nil }); err != nil {
			t.Error(err)
		}
	})
	<-started
	release := e.Reserve()
	wg.Go(func() {
		if err := e.Do(ctx, run("do")); err != nil {
			t.Error(err)
		}
	})
	close(proceed)
	for range 33 {
		if err := e.DoFirst(ctx, run("first")); err != nil {
			t.Fatal(err)
		}
	}
	release()
	wg.Wait()
	if at := slices.Index(order, "do"); len(order) != 34 || at < 32 {
		t.Errorf("the function of Do ran as number %d of %d, want the 33rd or 34th", at+1, len(order))
	}
	// Without a reservation, and with one that was released, an engine takes what comes.
	if err := e.Do(ctx, run("do")); err != nil {
		t.Fatal(err)
	}
}

// A call of Do waits while the engine is reserved, until it is released.
func TestReserveEnds(t *testing.T) {
	e := newEngine(t, 1)
	release, other := e.Reserve(), e.Reserve()
	var released atomic.Bool
	done := make(chan error)
	go func() {
		done <- e.Do(t.Context(), func(*tensor.Scope) error {
			if !released.Load() {
				return errors.New("ran while the engine was reserved")
			}
			return nil
		})
	}()
	for range 5 {
		if err := e.DoFirst(t.Context(), func(*tensor.Scope) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	release()
	release() // once more is nothing
	if err := e.DoFirst(t.Context(), func(*tensor.Scope) error { return nil }); err != nil {
		t.Fatal(err)
	}
	released.Store(true)
	other()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestNestedDoIsAnError(t *testing.T) {
	e, other := newEngine(t, 1), newEngine(t, 1)
	ctx := context.Background()
	err := e.Do(ctx, func(*tensor.Scope) error {
		if err := e.Close(); !errors.Is(err, tensor.ErrNested) {
			t.Errorf("Close inside Do returned %v, want ErrNested", err)
		}
		if err := other.Do(ctx, func(*tensor.Scope) error { return nil }); err != nil {
			t.Errorf("another engine's Do inside Do: %v", err)
		}
		return e.Do(ctx, func(*tensor.Scope) error { return nil })
	})
	if !errors.Is(err, tensor.ErrNested) {
		t.Errorf("nested Do returned %v, want ErrNested", err)
	}
}

func TestTwoEnginesDoNotMix(t *testing.T) {
	a, b := newEngine(t, 1), newEngine(t, 1)
	ctx := context.Background()
	var x *tensor.Tensor
	if err := a.Do(ctx, func(s *tensor.Scope) error { x = s.Ones(tensor.Float32, 2).Keep(); return nil }); err != nil {
		t.Fatal(err)
	}
	err := b.Do(ctx, func(s *tensor.Scope) error { s.Ones(tensor.Float32, 2).Add(x); return nil })
	if !errors.Is(err, tensor.ErrInvalid) || !strings.Contains(err.Error(), "another engine") {
		t.Errorf("got %v, want ErrInvalid about another engine", err)
	}
}

func TestNewEngineRefuses(t *testing.T) {
	if _, err := tensor.NewEngine(tensor.Options{Threads: -1}); err == nil {
		t.Error("a negative number of threads was accepted")
	}
	if tensor.CUDAAvailable() == nil {
		return // the next check is for machines without a GPU
	}
	_, err := tensor.NewEngine(tensor.Options{Device: tensor.CUDA(0)})
	if err == nil || !strings.Contains(err.Error(), "cuda:0") || !strings.Contains(err.Error(), "driver") {
		t.Errorf("NewEngine on a missing GPU returned %v, want an error that names it and says what is missing", err)
	}
}

func TestThreadsAreEachEnginesOwn(t *testing.T) {
	one, three := newEngine(t, 1), newEngine(t, 3)
	for want, e := range map[int]*tensor.Engine{1: one, 3: three} {
		err := e.Do(context.Background(), func(s *tensor.Scope) error {
			if got := s.Threads(); got != want {
				t.Errorf("Threads() = %d, want %d", got, want)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
