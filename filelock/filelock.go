// Package filelock locks files between processes, on every system that ldalign is built for. The system drops a lock when its
// file is closed or its process ends, however it ends.
package filelock

import (
	"errors"
	"os"
)

// ErrHeld says that another process, or another open file of this one, holds the lock.
var ErrHeld = errors.New("locked by another process")

// Try locks an open file or folder. It returns ErrHeld instead of waiting, and errors.ErrUnsupported where there are no locks: on
// some file systems, and for folders on Windows.
func Try(f *os.File) error { return lock(f, false) }

// Wait locks an open file, and waits until others have dropped their locks.
func Wait(f *os.File) error { return lock(f, true) }
