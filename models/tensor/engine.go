package tensor

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/cgo"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	lib "github.com/sugarme/gotch/libtch"
)

// Options configure an engine.
type Options struct {
	Device  Device // where tensors are created
	Threads int    // threads within one operation on the CPU; 0 means all cores
}

// Engine owns tensors and the one OS thread that works on them. Its methods may be called from any goroutine.
type Engine struct {
	device Device
	jobs   chan *job     // unbuffered, so that the runtime's queue of senders is the FIFO
	first  chan *job     // the same for DoFirst
	freed  chan struct{} // signals the end of a reservation
	closed chan struct{} // closed by Close
	done   chan struct{} // closed when the goroutine has ended
	once   sync.Once
	busy   atomic.Int64
	live   atomic.Int64
	thread atomic.Uintptr // names the engine's thread; 0 once it has ended
	// reserved counts the reservations that have not ended.
	reserved atomic.Int64

	// The fields below belong to the engine's goroutine.
	cur     *Scope // innermost open scope, nil outside of Do
	kept    arena
	chunk   []Tensor // tensors not handed out yet
	spare   [][]*Tensor
	dead    []unsafe.Pointer
	dims    []int64
	args    []lib.Ctensor
	out     *[1]lib.Ctensor // in C memory: libtch writes results to it
	invalid *Tensor
	self    cgo.Handle // identifies the engine to C++
	turns   turns
	// recomputed are the functions of the calls of Recompute in this Do, by number.
	recomputed []func(*Scope, *Tensor) *Tensor
}

type job struct {
	f    func(*Scope) error
	err  error
	done chan struct{}
}

// NewEngine starts an engine: one goroutine, locked to one OS thread until Close. It fails if the device does not exist.
func NewEngine(o Options) (*Engine, error) {
	if o.Threads < 0 {
		return nil, fmt.Errorf("tensor: Threads is %d, want 0 (all cores) or more", o.Threads)
	}
	if o.Threads == 0 {
		o.Threads = runtime.NumCPU()
	}
	if err := o.Device.check(); err != nil {
		return nil, err
	}
	e := &Engine{
		device: o.Device,
		jobs:   make(chan *job),
		first:  make(chan *job),
		freed:  make(chan struct{}, 1),
		closed: make(chan struct{}),
		done:   make(chan struct{}),
		dims:   make([]int64, 0, C.SHIM_MAX_DIMS),
	}
	e.invalid = &Tensor{eng: e}
	e.self = cgo.NewHandle(e)
	started := make(chan error)
	go e.loop(o.Threads, started)
	if err := <-started; err != nil {
		e.self.Delete()
		return nil, err
	}
	return e, nil
}

// Device returns the device on which the engine creates tensors.
func (e *Engine) Device() Device { return e.device }

// Do runs f on the engine's thread, in a new scope, after earlier calls of Do. At the end it frees the scope's tensors, except
// those that were kept. It returns f's error, or else the scope's first tensor error. A panic in f is returned as an error with
// its stack. If ctx ends before f starts, f never runs and Do returns ctx's error. Once started, f runs to its end; an f that
// takes long should check ctx. After Close, Do returns ErrClosed.
func (e *Engine) Do(ctx context.Context, f func(*Scope) error) error { return e.do(ctx, e.jobs, f) }

// DoFirst is Do for work that somebody waits for, such as a step of decoding for a server. It runs before all waiting calls of
// Do. After 32 functions of DoFirst, functions that wait in Do run for a quarter of the time that the 32 took.
func (e *Engine) DoFirst(ctx context.Context, f func(*Scope) error) error {
	return e.do(ctx, e.first, f)
}

// Reserve keeps the engine for a sequence of calls of DoFirst, also between two calls, until release is called. Do still gets its
// turns. The caller must keep calling DoFirst or release the engine, and must not wait for Do meanwhile.
func (e *Engine) Reserve() (release func()) {
	e.reserved.Add(1)
	return sync.OnceFunc(func() {
		e.reserved.Add(-1)
		select {
		case e.freed <- struct{}{}:
		default:
		}
	})
}

func (e *Engine) do(ctx context.Context, jobs chan<- *job, f func(*Scope) error) error {
	if uintptr(C.shim_thread()) == e.thread.Load() {
		return ErrNested
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("tensor: not started: %w", err)
	}
	j := &job{f: f, done: make(chan struct{})}
	select {
	case jobs <- j:
	case <-ctx.Done():
		return fmt.Errorf("tensor: not started: %w", ctx.Err())
	case <-e.closed:
		return ErrClosed
	}
	<-j.done
	return j.err
}

// Busy returns the time spent inside Do so far.
func (e *Engine) Busy() time.Duration { return time.Duration(e.busy.Load()) }

// Live returns the number of tensors, in scopes and kept, that have native memory now.
func (e *Engine) Live() int { return int(e.live.Load()) }

// Close waits for the running Do, frees all tensors, including kept ones, and ends the engine's thread. Waiting calls of Do
// return ErrClosed. Close may be called more than once, but not from inside Do.
func (e *Engine) Close() error {
	if uintptr(C.shim_thread()) == e.thread.Load() {
		return ErrNested
	}
	e.once.Do(func() { close(e.closed) })
	<-e.done
	return nil
}

func (e *Engine) loop(threads int, started chan<- error) {
	// The goroutine is never unlocked: the OS thread, with libtorch's thread-local state, ends with it.
	runtime.LockOSThread()
	defer close(e.done)
	if err := e.open(threads); err != nil {
		started <- err
		return
	}
	defer e.release()
	close(started)
	for {
		j, first := e.next()
		if j == nil {
			return
		}
		start := time.Now()
		e.run(j)
		e.turns.count(first, time.Since(start))
	}
}

// next waits for the next function to run, and reports whether it is one of DoFirst. It returns nil once the engine is closed.
func (e *Engine) next() (j *job, first bool) {
	for {
		preferred := e.first
		if e.turns.owed > 0 {
			preferred = e.jobs
		}
		select {
		case j := <-preferred:
			return j, preferred == e.first
		default:
		}
		jobs := e.jobs
		if e.reserved.Load() > 0 && e.turns.owed == 0 {
			jobs = nil // a nil channel blocks
		}
		select {
		case j := <-e.first:
			return j, true
		case j := <-jobs:
			return j, false
		case <-e.freed:
		case <-e.closed:
			return nil, false
		}
	}
}

// turns decides between functions of Do and of DoFirst when both wait.
type turns struct {
	inARow int           // functions of DoFirst since the last turn of Do
	took   time.Duration // the time that these took
	owed   time.Duration // the rest of the turn of Do; 0 during that of DoFirst
}

// patience is how many functions of DoFirst run before those that wait in Do get their turn.
const patience = 32

// count notes that a function has run.
func (t *turns) count(first bool, took time.Duration) {
	if !first {
		if t.owed -= took; t.owed <= 0 {
			*t = turns{}
		}
		return
	}
	t.inARow++
	t.took += took
	if t.inARow == patience {
		t.owed = max(t.took/4, 1)
	}
}

func (e *Engine) open(threads int) error {
	C.shim_quiet_errors()
	C.shim_keep_memory()
	C.shim_strict_products()
	if e.device != CPU {
		C.shim_deterministic()
	}
	e.thread.Store(uintptr(C.shim_thread()))
	if msg := C.shim_set_threads(C.int(threads)); msg != nil {
		return fmt.Errorf("tensor: set %d threads: %s", threads, takeString(msg))
	}
	if got := libtorchThreads(); got != threads {
		return fmt.Errorf("tensor: set %d threads: libtorch has %d", threads, got)
	}
	e.out = (*[1]lib.Ctensor)(C.calloc(1, C.size_t(unsafe.Sizeof(lib.Ctensor(nil)))))
	return nil
}

// libtorchThreads returns the number of threads within one operation on the CPU, as this thread has set it.
func libtorchThreads() int { return int(C.shim_threads()) }

// release ends the engine, also if f ended the goroutine itself (runtime.Goexit, as testing.T.FailNow does).
func (e *Engine) release() {
	e.thread.Store(0)
	e.once.Do(func() { close(e.closed) })
	e.free(&e.kept)
	C.free(unsafe.Pointer(e.out))
	e.self.Delete()
}

func (e *Engine) run(j *job) {
	start := time.Now()
	s := e.push()
	returned := false
	defer func() {
		if !returned {
			if r := recover(); r != nil {
				j.err = panicError(r)
			} else {
				j.err = errors.New("tensor: the function given to Do ended its goroutine (runtime.Goexit); engine closed")
			}
		}
		e.pop(s)
		clear(e.recomputed)
		e.recomputed = e.recomputed[:0]
		e.busy.Add(int64(time.Since(start)))
		close(j.done)
	}()
	j.err = s.outcome(j.f(s))
	returned = true
}

func panicError(r any) error {
	if err, ok := r.(error); ok {
		return fmt.Errorf("tensor: panic in Do: %w\n%s", err, debug.Stack())
	}
	return fmt.Errorf("tensor: panic in Do: %v\n%s", r, debug.Stack())
}

// takeString copies and frees a message of the native side and returns its first line.
func takeString(msg *C.char) string {
	defer C.free(unsafe.Pointer(msg))
	return firstLine(C.GoString(msg))
}
