// Package tensor is a thin layer over libtorch 2.1.0: gotch's generated C binding, and a C++ shim for what that lacks.
//
// # Engine
//
// libtorch keeps errors, the gradient mode and the number of threads per OS thread. An [Engine] therefore is one
// goroutine locked to one OS thread for life, and [Engine.Do] sends it a function. Tensors are touched inside that
// function only, on the goroutine that it is called on. [Engine.DoFirst] is for work that somebody waits for.
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
// There are no finalizers. The result of an operation belongs to the innermost open [Scope] of the engine, and is freed
// at its end; a creation (s.Zeros) belongs to s. [Scope.Scope] opens a scope within a scope, so that a loop does not
// pile up temporaries. [Tensor.MoveTo] moves a tensor to an outer scope, [Tensor.Keep] out of all scopes, to the
// engine, where it lives until [Tensor.Free] or [Engine.Close]. Views share memory, which lives as long as any of them.
// Data go into Go and out of it by copy.
//
// # Errors
//
// Operations are methods that return tensors, so that models read as formulas. The first error is recorded in the scope
// in which it happened: the operation returns an invalid tensor, and every later operation of that scope does nothing.
// [Scope.Scope] and [Engine.Do] return the recorded error, so it comes back as a return value; nothing is half-reported
// and nothing ends the process. Readers ([Tensor.Item], [Tensor.Float32s]) give zero values in a failed scope: a loop
// that ends by a tensor's value looks at [Scope.Err]. Using a scope after its end, or a tensor outside of Do, is a
// mistake of the program, and panics; inside Do a panic becomes an error that carries the stack.
//
// # Batch invariance
//
// A redelivered prompt meets other neighbours in its batch, and must give the same text, to the last bit. On the CPU,
// in tensors of the same shape and with the same number of threads, a row's result is the same whatever stands in the
// other rows and wherever the row stands. TestBatchInvariance measures it for Linear, Matmul, BMM, SDPA (causal over
// whole sequences, and one query), LogSoftmax, RMSNorm, LayerNorm, and the functions of single elements. It is not so
// between different shapes (another number of rows) or another number of threads.
// libtorch's own SiLU, GELU and sigmoid break it where a thread's share does not end on a whole vector register; those
// of this package pad their input in such a case.
//
// # Devices
//
// The CUDA path is written and linked by the CUDA build, and has not been run on a GPU.
package tensor
