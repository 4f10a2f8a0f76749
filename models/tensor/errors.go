package tensor

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

var (
	// ErrClosed is returned by Do after Close.
	ErrClosed = errors.New("tensor: engine is closed")
	// ErrNested is returned by Do when it is called from inside a Do of the same engine; use the Scope of that Do.
	ErrNested = errors.New("tensor: Do called from inside Do of the same engine: use its Scope instead")
	// ErrInvalid is the cause if an operand is nil, was freed with its scope, or belongs to another engine.
	ErrInvalid = errors.New("tensor: invalid operand")
)

// OpError is a failed tensor operation.
type OpError struct {
	Op      string // the method's name
	Message string // what failed; the first line of libtorch's message
	Err     error  // the cause, if it is one of this package's; may be nil
}

func (e *OpError) Error() string { return fmt.Sprintf("tensor: %s: %s", e.Op, e.Message) }

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }

// OutOfMemory is the cause of an OpError whose operation found too little free memory on a device. The engine can still be used:
// what the operation had allocated is free again.
type OutOfMemory struct {
	Device Device
	Bytes  int64 // that were wanted at once; 0 if libtorch does not say
}

func (e *OutOfMemory) Error() string {
	if e.Bytes == 0 {
		return fmt.Sprintf("%v is out of memory", e.Device)
	}
	return fmt.Sprintf("%v is out of memory: %d bytes were wanted", e.Device, e.Bytes)
}

// DeviceFailure is the cause of an OpError with which CUDA reports that it cannot go on. Every later operation of the process
// fails too.
type DeviceFailure struct{ Device Device }

func (e *DeviceFailure) Error() string { return fmt.Sprintf("%v has failed", e.Device) }

// What libtorch, its allocators and CUDA's libraries say when memory is short. libtch passes on the text of an exception only.
var (
	shortage = regexp.MustCompile(`out of memory|can't allocate memory|bad_alloc|STATUS_ALLOC_FAILED`)
	wanted   = regexp.MustCompile(`[Tt]ried to allocate ([0-9.]+) (bytes|KiB|MiB|GiB)`)
	units    = map[string]float64{"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
)

// nativeError is the error of an operation on a device, from the first line of its native message.
func nativeError(op, text string, device Device) error {
	if !shortage.MatchString(text) {
		if strings.Contains(text, "CUDA error") {
			return &OpError{Op: op, Message: text, Err: &DeviceFailure{device}}
		}
		return &OpError{Op: op, Message: text}
	}
	cause := &OutOfMemory{Device: device}
	if !strings.Contains(text, "CUDA") && !strings.Contains(text, "CUBLAS") { // the memory of the host is short
		cause.Device = CPU
	}
	if m := wanted.FindStringSubmatch(text); m != nil {
		n, _ := strconv.ParseFloat(m[1], 64) // the expression matches numbers only
		cause.Bytes = int64(n * units[m[2]])
	}
	// The error of a Recompute has the prefix already.
	if prefix := fmt.Sprintf("%v is out of memory: ", cause.Device); !strings.Contains(text, prefix) {
		text = prefix + text
	}
	return &OpError{Op: op, Message: text, Err: cause}
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}
