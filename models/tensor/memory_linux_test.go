package tensor_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"

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
		x := param.Detach().AddScalar(1).Mul_(param.Detach()) // in place: libtch returns a second handle
		sorted, _ := x.View(256, 256).Sort(1, false)
		grads := tensor.Grads(sorted.Reshape(-1).Mul(param).Sum(), []*tensor.Tensor{param})
		tensor.ClipGradNorm(s, grads, 1)
	}
	phases := []struct {
		name   string
		rounds int
		fails  bool
		f      func(s *tensor.Scope, param *tensor.Tensor)
	}{
		{"warm-up", 100, false, good},
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
		if i == 0 {
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
