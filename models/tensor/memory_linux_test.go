package tensor_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/ldalign/ldalign/models/tensor"
)

// resident is the memory that the process holds, in bytes.
func resident(t *testing.T) int64 {
	t.Helper()
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseInt(string(bytes.Fields(data)[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// Ten thousand operations on tensors of 256 KiB would hold 2.5 GB if their memory leaked. An error's message is short,
// so there are many errors.
func TestFlatMemory(t *testing.T) {
	const elements, allowed = 1 << 16, 8 << 20
	good := func(s *tensor.Scope, param *tensor.Tensor) {
		x := param.Detach().AddScalar(1).Add_(param.Detach()) // in place: libtch returns a second handle
		loss := x.Reshape(256, 256).Transpose(0, 1).Exp().Reshape(-1).Mul(param).Sum()
		grads := gradients(s, loss, []*tensor.Tensor{param})
		tensor.ClipGradNorm(s, grads, 1)
	}
	phases := []struct {
		name   string
		rounds int
		fails  bool
		f      func(s *tensor.Scope, param *tensor.Tensor)
	}{
		{"warm-up", 100, false, good},
		{"warm-up of errors", 2000, true, func(_ *tensor.Scope, param *tensor.Tensor) { param.Select(5, 0) }},
		{"operations", 1000, false, good}, // of ten operations
		{"errors with large tensors", 2000, true, func(s *tensor.Scope, param *tensor.Tensor) {
			param.Detach().AddScalar(1).Matmul(s.Ones(tensor.Float32, 3))
		}},
		{"errors of libtorch", 50000, true, func(s *tensor.Scope, param *tensor.Tensor) { param.Select(5, 0) }},
		{"errors of the shim", 50000, true, func(s *tensor.Scope, param *tensor.Tensor) { param.Softmax(5) }},
	}
	e := newEngine(t, 1)
	var before int64
	for i, phase := range phases {
		err := e.Do(context.Background(), func(s *tensor.Scope) error {
			param := s.Ones(tensor.Float32, elements).RequiresGrad_(true)
			for range phase.rounds {
				err := s.Scope(func(s *tensor.Scope) error { phase.f(s, param); return nil })
				if (err != nil) != phase.fails {
					return fmt.Errorf("%s: unexpected outcome: %w", phase.name, err)
				}
				if n := e.Live(); n != 1 {
					return fmt.Errorf("%s: %d tensors alive, want 1", phase.name, n)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if i < 2 {
			before = resident(t)
			continue
		}
		grown := resident(t) - before
		t.Logf("%s: resident memory has grown by %d KiB", phase.name, grown>>10)
		if grown > allowed {
			t.Errorf("%s: resident memory has grown by %d MiB, want at most %d", phase.name, grown>>20, allowed>>20)
		}
	}
	if n := e.Live(); n != 0 {
		t.Errorf("%d tensors alive at the end", n)
	}
}

// What is freed beside each other is memory for a larger tensor, and what is freed in large amounts goes back to the system.
func TestFreedMemoryIsUsedAgain(t *testing.T) {
	const small, count, slack = 1 << 20, 256, 24 << 20 // bytes
	e := newEngine(t, 1)
	err := e.Do(context.Background(), func(s *tensor.Scope) error {
		fill := func(bytes int64) *tensor.Tensor { return s.Zeros(tensor.Float32, bytes/4).Fill_(1) }
		fill(small).Free()
		before := resident(t)
		var parts []*tensor.Tensor
		for range count {
			parts = append(parts, fill(small))
		}
		for _, p := range parts {
			p.Free()
		}
		whole := fill(small * (count - 1))
		if grown := resident(t) - before; grown > small*count+slack {
			t.Errorf("%d MiB resident for a tensor of %d", grown>>20, small*(count-1)>>20)
		}
		more := fill(1 << 30)
		whole.Free()
		more.Free()
		if grown := resident(t) - before; grown > 600<<20 {
			t.Errorf("%d MiB stay resident when all is freed", grown>>20)
		}
		return s.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Tensors keep what is theirs, whatever is made and freed around them, by several engines at once.
func TestTensorsDoNotShareMemory(t *testing.T) {
	var all errgroup.Group
	for seed := range uint64(2) {
		e := newEngine(t, 1)
		all.Go(func() error {
			random := rand.New(rand.NewPCG(seed, 0))
			return e.Do(context.Background(), func(s *tensor.Scope) error {
				alive := map[float64]*tensor.Tensor{}
				for i := range 1500 {
					value := float64(seed*10000 + uint64(i))
					alive[value] = s.Zeros(tensor.Float32, 1+random.Int64N(200_000)).Fill_(value)
					gone := float64(seed*10000 + random.Uint64N(uint64(i+1)))
					if x := alive[gone]; x != nil {
						err := s.Scope(func(*tensor.Scope) error {
							if off := x.AddScalar(-gone); off.Mul(off).Sum().Item() != 0 {
								return fmt.Errorf("a tensor of %g holds other numbers", gone)
							}
							return nil
						})
						if err != nil {
							return err
						}
						x.Free()
						delete(alive, gone)
					}
				}
				return s.Err()
			})
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
}
