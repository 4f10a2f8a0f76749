package safetensors

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// Writer streams a safetensors file: Write every declared tensor in its order, then Close. After an error the file is
// gone and every further call returns that error. Not for use from several goroutines.
type Writer struct {
	out   io.Writer
	infos []Info
	sizes []int64
	next  int
	err   error
	// file is set by Create: the temporary file that becomes path.
	file *os.File
	path string
}

// Create begins a file under a temporary name in path's folder; Close renames it to path, replacing what is there.
// The header is written at once, so infos must name every tensor in the order of Write. A caller that may give up calls
// Abort, usually deferred.
func Create(path string, infos []Info, metadata map[string]string) (*Writer, error) {
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return nil, fmt.Errorf("safetensors: create %s: %w", path, err)
	}
	w := &Writer{out: file, infos: slices.Clone(infos), file: file, path: path}
	if err := w.begin(metadata); err != nil {
		return nil, err
	}
	return w, nil
}

// NewWriter begins a file on a stream, which stays the caller's to close.
func NewWriter(out io.Writer, infos []Info, metadata map[string]string) (*Writer, error) {
	w := &Writer{out: out, infos: slices.Clone(infos)}
	if err := w.begin(metadata); err != nil {
		return nil, err
	}
	return w, nil
}

func (w *Writer) begin(metadata map[string]string) error {
	head, sizes, err := encodeHeader(w.infos, metadata)
	if err != nil {
		return w.fail(err)
	}
	w.sizes = sizes
	return w.put(head)
}

// Write adds the next declared tensor. ErrOrder if name is not the next one or data has not its size.
func (w *Writer) Write(name string, data []byte) error {
	if w.err != nil {
		return w.err
	}
	if w.next == len(w.infos) {
		return w.fail(fmt.Errorf("%w: %q, after all %d", ErrOrder, name, len(w.infos)))
	}
	if want := w.infos[w.next]; name != want.Name {
		return w.fail(fmt.Errorf("%w: %q where %q is next", ErrOrder, name, want.Name))
	}
	if want := w.sizes[w.next]; int64(len(data)) != want {
		return w.fail(fmt.Errorf("%w: %q has %d bytes, declared were %d", ErrOrder, name, len(data), want))
	}
	w.next++
	return w.put(data)
}

// Close ends the file; with Create it is then on disk (fsync) under its name. ErrOrder if a declared tensor was not
// written.
func (w *Writer) Close() error {
	if w.err != nil {
		return w.err
	}
	if w.next < len(w.infos) {
		return w.fail(fmt.Errorf("%w: %q was not written", ErrOrder, w.infos[w.next].Name))
	}
	if w.file != nil {
		if err := w.publish(); err != nil {
			return w.fail(fmt.Errorf("safetensors: %w", err))
		}
	}
	w.err = ErrClosed
	return nil
}

// Abort gives up and removes the temporary file. After Close it does nothing.
func (w *Writer) Abort() {
	if w.err == nil {
		_ = w.fail(ErrClosed)
	}
}

func (w *Writer) put(data []byte) error {
	n, err := w.out.Write(data)
	if err == nil && n < len(data) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return w.fail(fmt.Errorf("safetensors: %w", err))
	}
	return nil
}

// publish makes the temporary file durable and gives it its name.
func (w *Writer) publish() error {
	if err := w.file.Chmod(0o644); err != nil { // CreateTemp's 0600 would hide a checkpoint from other users
		return err
	}
	if err := w.file.Sync(); err != nil {
		return err
	}
	if err := w.file.Close(); err != nil {
		return err
	}
	if err := os.Rename(w.file.Name(), w.path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(w.path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// fail records the first error and leaves nothing behind.
func (w *Writer) fail(err error) error {
	if w.file != nil {
		err = fmt.Errorf("write %s: %w", w.path, err)
		_ = w.file.Close()           // fails when publish closed it already
		_ = os.Remove(w.file.Name()) // fails when it was renamed already
	}
	w.err = err
	return err
}
