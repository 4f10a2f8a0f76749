//go:build unix

package safetensors

import (
	"os"

	"golang.org/x/sys/unix"
)

func mapped(f *os.File, size int) ([]byte, error) {
	return unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
}

func unmapped(data []byte) error { return unix.Munmap(data) }

// release is only advice to the system, so its error does not matter.
func release(data []byte) { _ = unix.Madvise(data, unix.MADV_DONTNEED) }
