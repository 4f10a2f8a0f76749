// Package logfile writes a log file that several processes share, and replaces it before it grows past a limit.
package logfile

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/ldalign/ldalign/filelock"
)

// Limits of a log that is opened with zero Limits.
const (
	defaultBytes = 64 << 20
	defaultKeep  = 3
)

// Limits bound a log. Together its files have at most (Keep+1)*Bytes bytes, and a line more for each process that writes.
type Limits struct {
	// Bytes is the size at which a file is replaced; 0 for 64 MiB.
	Bytes int64
	// Keep is the number of older files, named path.1 (the newest) to path.N; 0 for 3.
	Keep int
}

// File is an open log. Its methods are safe for concurrent use, also by several processes that write to the same path.
type File struct {
	path   string
	limits Limits

	mu   sync.Mutex
	file *os.File
}

// Open opens the log at a path for appending, and creates it if it does not exist.
func Open(path string, limits Limits) (*File, error) {
	if limits.Bytes == 0 {
		limits.Bytes = defaultBytes
	}
	if limits.Keep == 0 {
		limits.Keep = defaultKeep
	}
	f := &File{path: path, limits: limits}
	return f, f.open()
}

func (f *File) open() (err error) {
	f.file, err = os.OpenFile(f.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	return err
}

// Write appends a line.
func (f *File) Write(line []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		info, err := f.file.Stat()
		if err != nil {
			return 0, err
		}
		current := f.current(info)
		if current && (info.Size() == 0 || info.Size()+int64(len(line)) <= f.limits.Bytes) {
			return f.file.Write(line)
		}
		if current {
			err = f.rotate(info)
		}
		if err := errors.Join(err, f.file.Close(), f.open()); err != nil {
			return 0, fmt.Errorf("log %s: %w", f.path, err)
		}
	}
}

// current reports whether the open file is still the one at the path.
func (f *File) current(opened os.FileInfo) bool {
	found, err := os.Stat(f.path)
	return err == nil && os.SameFile(opened, found)
}

// rotate renames the files of the log, so that the path is free, unless another process has done so.
func (f *File) rotate(opened os.FileInfo) error {
	if err := filelock.Wait(f.file); err != nil { // until it is closed
		return err
	}
	if !f.current(opened) {
		return nil
	}
	for i := f.limits.Keep; i > 0; i-- {
		from := fmt.Sprintf("%s.%d", f.path, i-1)
		if i == 1 {
			from = f.path
		}
		if err := os.Rename(from, fmt.Sprintf("%s.%d", f.path, i)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Close closes the file.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.file.Close()
}
