package tensor

// #cgo CXXFLAGS: -I${SRCDIR}/include
// #include <stdlib.h>
// #include "group.h"
import "C"

import (
	"errors"
	"fmt"
	"sync"
	"time"
	"unsafe"
)

// ErrGroup means that a group of processes cannot continue: a member died, did not answer in time, or never joined.
var ErrGroup = errors.New("tensor: the group of processes is broken")

// Meeting is a small key-value store by which the members of a group find each other. One process, the host, runs it.
type Meeting struct {
	store   unsafe.Pointer
	address string // of this process
	timeout time.Duration
	// Port is the port on which the host listens.
	Port int
}

// HostMeeting starts a meeting on a free port of an address of this process that the members can reach. Waiting in the meeting
// or in its groups fails after timeout.
func HostMeeting(address string, timeout time.Duration) (*Meeting, error) {
	return meet(address, 0, address, true, timeout)
}

// AttendMeeting connects to a host's meeting. address is an address of this process that the other members can reach.
func AttendMeeting(host string, port int, address string, timeout time.Duration) (*Meeting, error) {
	return meet(host, port, address, false, timeout)
}

func meet(host string, port int, address string, server bool, timeout time.Duration) (*Meeting, error) {
	name := C.CString(host)
	defer C.free(unsafe.Pointer(name))
	var serves, bound C.int
	if server {
		serves = 1
	}
	m := &Meeting{address: address, timeout: timeout}
	if msg := C.shim_store_new(&m.store, &bound, name, C.int(port), serves, C.int(timeout.Milliseconds())); msg != nil {
		return nil, fmt.Errorf("%w: meeting at %s:%d: %s", ErrGroup, host, port, takeString(msg))
	}
	m.Port = int(bound)
	return m, nil
}

// Close ends the meeting. Groups that were made at it continue.
func (m *Meeting) Close() {
	C.shim_store_free(m.store)
	m.store = nil
}

// Group combines tensors of several processes, each with its own engine. Its operations are collective: every member calls
// them in the same order, with tensors of the same types and shapes, inside its engine's Do. If a member dies, the operations
// of the others fail with ErrGroup: at once if its connections close, else at Abort or after the timeout. The group is then
// unusable.
type Group struct {
	Rank, Size int

	mu    sync.Mutex // held by an operation
	life  sync.Mutex // held while group is set, or used outside of an operation
	group unsafe.Pointer
}

// Join makes this process a member of a group of the given size, and waits for all others. Each has its own rank, from 0. On CPUs
// Gloo connects the members. On GPUs, one for each member, NCCL does; only the CUDA build has NCCL, and it was not run on a GPU.
func (m *Meeting) Join(rank, size int, where Device) (*Group, error) {
	if rank < 0 || rank >= size {
		return nil, fmt.Errorf("%w: rank %d of %d", ErrGroup, rank, size)
	}
	address := C.CString(m.address)
	defer C.free(unsafe.Pointer(address))
	g := &Group{Rank: rank, Size: size}
	msg := C.shim_group_new(&g.group, m.store, C.int(rank), C.int(size), C.int(where.native()), address,
		C.int(m.timeout.Milliseconds()))
	if msg != nil {
		return nil, fmt.Errorf("%w: rank %d of %d cannot join: %s", ErrGroup, rank, size, takeString(msg))
	}
	return g, nil
}

// Sum replaces each of ts by its sum over the members. All members get the same bits.
func (g *Group) Sum(s *Scope, ts ...*Tensor) error {
	return g.collective(s, "Sum", ts, func(list []unsafe.Pointer) *C.char {
		return C.shim_group_sum(g.group, &list[0], C.size_t(len(list)))
	})
}

// Broadcast replaces each of ts by root's.
func (g *Group) Broadcast(s *Scope, root int, ts ...*Tensor) error {
	return g.collective(s, "Broadcast", ts, func(list []unsafe.Pointer) *C.char {
		return C.shim_group_broadcast(g.group, &list[0], C.size_t(len(list)), C.int(root))
	})
}

func (g *Group) collective(s *Scope, op string, ts []*Tensor, f func(list []unsafe.Pointer) *C.char) error {
	s.alive()
	if err := s.Err(); err != nil || len(ts) == 0 {
		return err
	}
	list := s.natives(op, ts)
	if err := s.Err(); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.group == nil {
		return fmt.Errorf("%w: it was closed", ErrGroup)
	}
	if msg := f(list); msg != nil {
		return fmt.Errorf("%w: rank %d of %d: %s", ErrGroup, g.Rank, g.Size, takeString(msg))
	}
	return nil
}

// Abort makes the operation in progress on GPUs, and all later ones, fail. NCCL does not notice that a member has died, so
// whoever knows must call Abort. On CPUs Abort does nothing, because the connections close. Any goroutine may call it.
func (g *Group) Abort() {
	g.life.Lock()
	defer g.life.Unlock()
	if g.group != nil {
		C.shim_group_abort(g.group)
	}
}

// Close leaves the group. The operations of the other members then fail.
func (g *Group) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.life.Lock()
	defer g.life.Unlock()
	if g.group != nil {
		C.shim_group_free(g.group)
		g.group = nil
	}
}
