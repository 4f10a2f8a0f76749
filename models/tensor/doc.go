// Package tensor is a thin layer over libtorch, 2.7 or newer: gotch's generated C binding, and a C++ shim for what that lacks.
//
// # Engine
//
// libtorch keeps errors, the gradient mode and the number of threads per OS thread. So an [Engine] is one goroutine that is
// locked to one OS thread, and [Engine.Do] sends it a function. Tensors may be used inside that function only, on the engine's
// goroutine. [Engine.DoFirst] is for work that somebody waits for.
//
//	err := engine.Do(ctx, func(s *tensor.Scope) error {
//		x := s.Ones(tensor.Float32, 8, 16)
//		y := x.Linear(weight, nil).Silu()
//		loss = y.Sum().Item()
//		return nil
//	})
//
// # Memory
//
// There are no finalizers. The result of an operation belongs to the innermost open [Scope] of the engine, which frees it when it
// ends; a tensor that s creates (s.Zeros) belongs to s. [Scope.Scope] opens a scope within a scope, so that a loop does not
// accumulate temporaries. [Tensor.MoveTo] moves a tensor to an outer scope. [Tensor.Keep] moves it out of all scopes, to the
// engine, where it lives until [Tensor.Free] or [Engine.Close]. Views share memory, which lives as long as any of them. Data are
// copied between Go and tensors.
//
// # Errors
//
// Operations are methods that return tensors, so that models read as formulas. A scope records its first error: the operation
// that failed returns an invalid tensor, and every later operation of that scope does nothing. [Scope.Scope] and [Engine.Do]
// return the recorded error. Readers ([Tensor.Item], [Tensor.Float32s]) return zero values in a failed scope, so a loop that ends
// by a tensor's value must check [Scope.Err]. Using a scope after its end, or a tensor outside of Do, is a programming error and
// panics. Inside Do a panic becomes an error with the stack.
//
// # Batch invariance
//
// A redelivered prompt has other neighbours in its batch, and must give the same text, to the last bit. On the CPU, in tensors
// of the same shape and with the same number of threads, a row's result does not depend on the other rows or on the row's place.
// TestBatchInvariance measures this for Linear, Matmul, BMM, SDPA (causal over whole sequences, and one query), LogSoftmax,
// RMSNorm, LayerNorm, and the functions of single elements. It does not hold between different shapes (another number of rows)
// or another number of threads. libtorch's own SiLU, GELU and sigmoid break it if a thread's share does not end on a whole
// vector register; those of this package pad their input in such a case.
//
// # Devices
//
// The CUDA path is written and linked by the CUDA build, and has not been run on a GPU.
package tensor
