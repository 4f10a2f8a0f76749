package tensor

import (
	"errors"
	"fmt"
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

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}
