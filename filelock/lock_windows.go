package filelock

import (
	"errors"
	"math"
	"os"

	"golang.org/x/sys/windows"
)

func lock(f *os.File, wait bool) error {
	if info, err := f.Stat(); err != nil {
		return err
	} else if info.IsDir() {
		return errors.ErrUnsupported
	}
	how := uint32(windows.LOCKFILE_EXCLUSIVE_LOCK)
	if !wait {
		how |= windows.LOCKFILE_FAIL_IMMEDIATELY
	}
	// Windows forbids others to read what is locked, so the lock is on a byte that no file has.
	beyond := &windows.Overlapped{Offset: math.MaxUint32, OffsetHigh: math.MaxInt32}
	err := windows.LockFileEx(windows.Handle(f.Fd()), how, 0, 1, 0, beyond)
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) || errors.Is(err, windows.ERROR_IO_PENDING) {
		return ErrHeld
	}
	return err
}
