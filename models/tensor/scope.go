package tensor

// #include "shim.h"
import "C"

import (
	"fmt"
	"unsafe"

	lib "github.com/sugarme/gotch/libtch"
)

// Scope is an arena: it owns the tensors that are created while it is the innermost one, and frees them at its end. It is valid
// only inside the function that it was passed to, on the engine's thread.
type Scope struct {
	arena
	eng    *Engine
	parent *Scope
	err    error
	closed bool
}

// arena is a set of tensors with one lifetime. A tensor knows its place in it, so removal takes constant time.
type arena struct{ tensors []*Tensor }

func (a *arena) add(t *Tensor) {
	t.home, t.slot = a, len(a.tensors)
	a.tensors = append(a.tensors, t)
}

func (a *arena) remove(t *Tensor) {
	last := len(a.tensors) - 1
	moved := a.tensors[last]
	a.tensors[t.slot], moved.slot = moved, t.slot
	a.tensors[last] = nil
	a.tensors = a.tensors[:last]
	t.home = nil
}

// Err returns the scope's first error, nil if there is none. After an error every operation in the scope does nothing and returns
// an invalid tensor, so a loop whose end depends on a tensor's value must check Err.
func (s *Scope) Err() error { return s.err }

// Fail records err as the scope's error, unless it has one already or err is nil.
func (s *Scope) Fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

// Scope runs f in a nested scope, whose tensors are freed at its end, except those that f kept or moved out with
// Tensor.MoveTo. It returns f's error, or else the nested scope's first tensor error. If s has failed already, it does not run
// f. The error does not make s fail; the caller handles it.
func (s *Scope) Scope(f func(inner *Scope) error) error {
	s.alive()
	if s.err != nil {
		return s.err
	}
	inner := s.eng.push()
	defer s.eng.pop(inner)
	return inner.outcome(f(inner))
}

// Result runs f in a nested scope and moves the tensor that f returns to s. An error of the nested scope makes s fail.
func (s *Scope) Result(f func(inner *Scope) *Tensor) *Tensor {
	var t *Tensor
	err := s.Scope(func(inner *Scope) error {
		t = f(inner)
		if t != nil {
			t.MoveTo(s)
		}
		return nil
	})
	if err != nil {
		s.Fail(err)
		return s.eng.invalid
	}
	return t
}

// NoGrad runs f without recording gradients, and restores the earlier mode in any case. It opens no scope: f gets s itself. It
// returns f's error, or else s's first tensor error.
func (s *Scope) NoGrad(f func(s *Scope) error) error {
	s.alive()
	if s.err != nil {
		return s.err
	}
	was := C.shim_set_grad(0)
	defer C.shim_set_grad(was)
	return s.outcome(f(s))
}

func (s *Scope) outcome(err error) error {
	if err != nil {
		return err
	}
	return s.err
}

// alive panics if s is used after its end. This is a programming error, which Do reports with the stack.
func (s *Scope) alive() {
	if s.closed {
		panic("tensor: use of a scope after its end")
	}
}

func (e *Engine) push() *Scope {
	s := &Scope{eng: e, parent: e.cur}
	if n := len(e.spare); n > 0 {
		s.tensors, e.spare = e.spare[n-1], e.spare[:n-1]
	}
	e.cur = s
	return s
}

func (e *Engine) pop(s *Scope) {
	s.closed = true
	e.cur = s.parent
	e.free(&s.arena)
	e.spare = append(e.spare, s.tensors)
	s.tensors = nil
}

// free ends the lifetime of all tensors of a.
func (e *Engine) free(a *arena) {
	if len(a.tensors) == 0 {
		return
	}
	e.dead = e.dead[:0]
	for i, t := range a.tensors {
		e.dead = append(e.dead, unsafe.Pointer(t.c))
		t.c, t.home = nil, nil
		a.tensors[i] = nil
	}
	C.shim_free(&e.dead[0], C.size_t(len(e.dead)))
	e.live.Add(-int64(len(e.dead)))
	a.tensors = a.tensors[:0]
}

// own wraps a native tensor and gives it to s.
func (s *Scope) own(c lib.Ctensor) *Tensor {
	e := s.eng
	if len(e.chunk) == 0 {
		e.chunk = make([]Tensor, 64)
	}
	t := &e.chunk[0]
	e.chunk = e.chunk[1:]
	t.c, t.eng = c, e
	s.add(t)
	e.live.Add(1)
	return t
}

// Every operation consists of enter or ready, the native call, and result.

// ready reports whether s can run another operation.
func (s *Scope) ready() bool {
	s.alive()
	return s.err == nil
}

// enter begins an operation on t in the innermost scope. It returns nil if the operation must not run.
func (t *Tensor) enter(op string) *Scope {
	s := t.eng.cur
	if s == nil {
		panic("tensor: " + op + " outside of Engine.Do")
	}
	if s.err != nil {
		return nil
	}
	if t.c == nil {
		s.failInvalid(op, t)
		return nil
	}
	return s
}

// takes reports whether u is a usable operand in s, and records an error if not.
func (s *Scope) takes(op string, u *Tensor) bool {
	if u == nil || u.c == nil || u.eng != s.eng {
		s.failInvalid(op, u)
		return false
	}
	return true
}

func (s *Scope) failInvalid(op string, u *Tensor) {
	for p := s; p != nil; p = p.parent {
		if p.err != nil { // the operand came from a scope that failed: tell the first cause
			s.Fail(p.err)
			return
		}
	}
	why := "an operand was freed at its scope's end (use Keep or MoveTo), or comes from a failed scope"
	if u == nil {
		why = "an operand is nil"
	} else if u.eng != s.eng {
		why = "an operand belongs to another engine"
	}
	s.Fail(&OpError{Op: op, Message: why, Err: ErrInvalid})
}

func (s *Scope) failf(op, format string, args ...any) {
	s.Fail(&OpError{Op: op, Message: fmt.Sprintf(format, args...)})
}

// failNative records the error of a native function, and frees its message.
func (s *Scope) failNative(op string, msg *C.char) {
	s.Fail(nativeError(op, takeString(msg), s.eng.device))
}

// result returns the tensor that libtch has put into out[0]. libtch leaves out[0] untouched exactly if it caught an exception;
// only then result asks for the thread's error.
func (s *Scope) result(op string) *Tensor {
	e := s.eng
	c := e.out[0]
	if c == nil {
		s.failLibtch(op)
		return e.invalid
	}
	e.out[0] = nil
	return s.own(c)
}

// inPlace ends an in-place operation on t. libtch returns another handle of t, which inPlace frees.
func (s *Scope) inPlace(op string, t *Tensor) *Tensor {
	e := s.eng
	c := e.out[0]
	if c == nil {
		s.failLibtch(op)
		return e.invalid
	}
	e.out[0] = nil
	lib.AtFree(c)
	return t
}

func (s *Scope) failLibtch(op string) {
	msg := (*C.char)(unsafe.Pointer(lib.GetAndResetLastErr()))
	if msg == nil {
		s.failf(op, "libtch gave neither a result nor an error")
		return
	}
	s.failNative(op, msg)
}

// shimResult ends an operation of the shim, whose result is in out[0].
func (s *Scope) shimResult(op string, msg *C.char) *Tensor {
	if msg != nil {
		s.failNative(op, msg)
		return s.eng.invalid
	}
	return s.result(op)
}

// slot0 is where the functions of the shim put their result.
func (e *Engine) slot0() *unsafe.Pointer { return (*unsafe.Pointer)(unsafe.Pointer(&e.out[0])) }

// size copies dims to the engine's buffer, so that a variadic argument does not need to be on the heap. libtch's Go wrappers take
// the address of the first element, so the buffer has at least one.
func (e *Engine) size(dims []int64) []int64 {
	e.dims = append(e.dims[:0], dims...)
	if len(dims) == 0 {
		return append(e.dims, 0)
	}
	return e.dims
}

// list collects native tensors in the engine's buffer. It returns nil after recording an error.
func (s *Scope) list(op string, ts []*Tensor) []lib.Ctensor {
	if len(ts) == 0 {
		s.failf(op, "no tensors given")
		return nil
	}
	e := s.eng
	e.args = e.args[:0]
	for _, t := range ts {
		if !s.takes(op, t) {
			return nil
		}
		e.args = append(e.args, t.c)
	}
	return e.args
}
