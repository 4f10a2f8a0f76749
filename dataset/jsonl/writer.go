package jsonl

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/ldalign/ldalign/filelock"
)

// ErrInUse is the error of a file that another process is writing.
var ErrInUse = errors.New("in use by another process")

// Writer appends records to a JSONL file, or prints them.
type Writer struct {
	out  io.Writer
	file *os.File // nil for printing
	size int64    // of the whole lines in file
	done map[string]bool
}

// OpenWriter opens the file at path for appending, or creates it; an empty path or "-" prints to stdout instead. It cuts
// off a last line without a newline, which a crash has left. A line without an id is an *Error: another program wrote the
// file. The file is locked until Close; the error wraps ErrInUse when another process has locked it.
func OpenWriter(path string, stdout io.Writer) (_ *Writer, err error) {
	w := &Writer{out: stdout, done: map[string]bool{}}
	if path == "" || path == "-" {
		return w, nil
	}
	if w.file, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.file.Close())
		}
	}()
	err = filelock.Try(w.file)
	if errors.Is(err, filelock.ErrHeld) {
		return nil, fmt.Errorf("%s is %w", path, ErrInUse)
	}
	if err != nil && !errors.Is(err, errors.ErrUnsupported) { // some file systems have no locks
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if err := w.resume(path); err != nil {
		return nil, err
	}
	if err := w.cut(); err != nil {
		return nil, err
	}
	w.out = w.file
	return w, nil
}

// resume reads the whole lines of the file.
func (w *Writer) resume(path string) error {
	r := NewReader(path, w.file)
	for {
		line, whole, err := r.line()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !whole {
			return r.checkPartial(line)
		}
		w.size += int64(len(line)) + 1
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		id, err := r.outputID(line)
		if err != nil {
			return err
		}
		w.done[id] = true
	}
}

// outputID is the id of a line of an output file.
func (r *Reader) outputID(line []byte) (id string, err error) {
	l, err := r.parse(line)
	if err == nil {
		id, err = l.ID()
	}
	if err != nil {
		return "", fmt.Errorf("the output file exists and contains something else (choose another name): %w", err)
	}
	return id, nil
}

// checkPartial returns an error if the last line of a file, which has no newline, is not the beginning of a record: another
// program wrote it, and it must not be cut off. Some file systems leave zeros after a crash of the machine.
func (r *Reader) checkPartial(line []byte) error {
	if len(bytes.Trim(line, "\x00")) == 0 || (line[0] == '{' && !json.Valid(line)) {
		return nil
	}
	_, err := r.outputID(line)
	return err
}

// cut truncates the file after its last whole line and seeks there.
func (w *Writer) cut() error {
	if err := w.file.Truncate(w.size); err != nil {
		return err
	}
	_, err := w.file.Seek(w.size, io.SeekStart)
	return err
}

// Done reports whether the file has a record with this id.
func (w *Writer) Done(id string) bool { return w.done[id] }

// Records is how many records the file has.
func (w *Writer) Records() int { return len(w.done) }

// Write appends a record, which holds the id, as a line. After an error the file still ends with a whole line.
func (w *Writer) Write(id string, v any) error {
	line, err := Marshal(v)
	if err != nil {
		return err
	}
	data := []byte(line + "\n")
	if _, err := w.out.Write(data); err != nil {
		if w.file != nil {
			err = errors.Join(err, w.cut())
		}
		return err
	}
	w.size += int64(len(data))
	if w.file != nil {
		w.done[id] = true
	}
	return nil
}

// Close syncs and closes the file.
func (w *Writer) Close() error {
	if w.file == nil {
		return nil
	}
	return errors.Join(w.file.Sync(), w.file.Close())
}
