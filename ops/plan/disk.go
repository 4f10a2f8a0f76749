//go:build !windows

package plan

import "syscall"

// available returns the bytes of the disk of a folder that a user may still fill.
func available(dir string) (int64, error) {
	var stat syscall.Statfs_t
	err := syscall.Statfs(dir, &stat)
	return int64(stat.Bavail) * int64(stat.Bsize), err //nolint:unconvert // macOS has other types
}
