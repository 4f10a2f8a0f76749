package jsonl

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"unicode/utf8"

	"github.com/ldalign/ldalign/dataset"
)

// MaxBytes bounds one line of a file.
const MaxBytes = 64 << 20

// Reader reads a JSONL file. It holds one line at a time and the ids that it has read.
type Reader struct {
	name   string
	in     *bufio.Reader
	file   io.Closer
	number int
	seen   map[string]int // line of each id
}

// Open opens a JSONL file, gzipped or not; "-" is stdin.
func Open(path string) (*Reader, error) {
	name, file := "stdin", io.NopCloser(os.Stdin)
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		name, file = path, f
	}
	text, err := dataset.Text(file)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), file.Close())
	}
	r := NewReader(name, file)
	r.in = text
	return r, nil
}

// NewReader reads plain text from file; errors call it by this name.
func NewReader(name string, file io.ReadCloser) *Reader {
	return &Reader{name: name, in: bufio.NewReaderSize(file, 1<<16), file: file, seen: map[string]int{}}
}

// Close closes the file.
func (r *Reader) Close() error { return r.file.Close() }

// Name is the file's name in errors.
func (r *Reader) Name() string { return r.name }

// Records is how many lines NextID has returned.
func (r *Reader) Records() int { return len(r.seen) }

// Next is the next line that is not blank. The error is io.EOF at the end, an *Error for a line that is not a JSON object
// in UTF-8, or that of reading.
func (r *Reader) Next() (Line, error) {
	for {
		line, _, err := r.line()
		if err != nil {
			return Line{}, err
		}
		if line = bytes.TrimSpace(line); len(line) > 0 {
			return r.parse(line)
		}
	}
}

// NextID is like Next, for files in which each line has a unique id, and also returns the id. A missing or repeated id is an
// *Error.
func (r *Reader) NextID() (Line, string, error) {
	l, err := r.Next()
	if err != nil {
		return Line{}, "", err
	}
	id, err := l.ID()
	if err != nil {
		return Line{}, "", err
	}
	if line, ok := r.seen[id]; ok {
		return Line{}, "", l.Errorf("id", "%s is already the id of line %d", id, line)
	}
	r.seen[id] = l.Number
	return l, id, nil
}

// line is the next line without its newline; whole reports whether it had one.
func (r *Reader) line() (line []byte, whole bool, err error) {
	r.number++
	for {
		part, err := r.in.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > MaxBytes {
			return nil, false, r.fail("the line is longer than %d MiB", MaxBytes>>20)
		}
		switch {
		case err == nil:
			return line[:len(line)-1], true, nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(line) > 0:
			return line, false, nil
		case errors.Is(err, io.EOF):
			return nil, false, io.EOF
		default:
			return nil, false, fmt.Errorf("%s:%d: %w", r.name, r.number, err)
		}
	}
}

func (r *Reader) parse(line []byte) (Line, error) {
	if !utf8.Valid(line) {
		return Line{}, r.fail("the line is not UTF-8")
	}
	l := Line{File: r.name, Number: r.number, Raw: line}
	if err := json.Unmarshal(line, &l.fields); err != nil || l.fields == nil {
		reason := fmt.Sprintf("%s is not", shorten(line))
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			reason = fmt.Sprintf("%v (byte %d); the line is not", syntax, syntax.Offset)
		}
		return Line{}, r.fail("%s a JSON object", reason)
	}
	return l, nil
}

func (r *Reader) fail(format string, args ...any) error {
	return &Error{File: r.name, Line: r.number, Reason: fmt.Sprintf(format, args...)}
}

// Count counts the lines of a file that are not blank, for a progress meter; 0 for stdin and other files that can be read
// only once.
func Count(path string) (int64, error) {
	info, err := os.Stat(path)
	if path == "-" || (err == nil && !info.Mode().IsRegular()) {
		return 0, nil
	}
	r, err := Open(path)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	for n := int64(0); ; {
		line, _, err := r.line()
		var bad *Error
		switch {
		case errors.Is(err, io.EOF), errors.As(err, &bad):
			return n, nil
		case err != nil:
			return 0, err
		case len(bytes.TrimSpace(line)) > 0:
			n++
		}
	}
}
