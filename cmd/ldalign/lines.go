package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/ldalign/ldalign/dataset"
	"github.com/ldalign/ldalign/streams"
)

// maxLine bounds one line of a JSONL file, in bytes.
const maxLine = 64 << 20

// record is one line of a JSONL file: a JSON object.
type record struct {
	File   string
	Number int    // of the line, from 1
	Raw    []byte // the object as it stands in the file
	fields map[string]json.RawMessage
}

// recordError says what is wrong with a line of a JSONL file, and with which key of it.
type recordError struct {
	File   string
	Line   int
	Key    string // empty for the line as a whole
	Reason string
}

func (e *recordError) Error() string {
	if e.Key == "" {
		return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Reason)
	}
	return fmt.Sprintf("%s:%d:%s: %s", e.File, e.Line, e.Key, e.Reason)
}

// fail is a *recordError about a key of the record.
func (r record) fail(key, format string, args ...any) error {
	return &recordError{File: r.File, Line: r.Number, Key: key, Reason: fmt.Sprintf(format, args...)}
}

// has tells whether the key is there and not null.
func (r record) has(key string) bool {
	value, ok := r.fields[key]
	return ok && !bytes.Equal(value, []byte("null"))
}

// into decodes the value of a key that must be there; want names its type ("text") in the *recordError of another one.
func (r record) into(key, want string, v any) error {
	if !r.has(key) {
		return r.fail(key, "the key is missing, want %s", want)
	}
	if err := json.Unmarshal(r.fields[key], v); err != nil {
		return r.fail(key, "%s is not %s", shorten(r.fields[key]), want)
	}
	return nil
}

// text is the text of a key that must be there.
func (r record) text(key string) (text string, err error) {
	err = r.into(key, "text", &text)
	return text, err
}

// id is the record's id, a text or a whole number under the key "id", as JSON with one spelling for each id.
func (r record) id() (string, error) {
	const want = "a text or a whole number that no other line has (jq -c '.id = input_line_number' numbers the lines)"
	var text string
	if r.has("id") && json.Unmarshal(r.fields["id"], &text) == nil {
		return compact(text)
	}
	var number int64
	if err := r.into("id", want, &number); err != nil {
		return "", err
	}
	return compact(number)
}

// compact is a value as JSON in one line. Characters stay what they are: a "<" is not written as \u003c.
func compact(v any) (string, error) {
	var out strings.Builder
	encode := json.NewEncoder(&out)
	encode.SetEscapeHTML(false)
	if err := encode.Encode(v); err != nil {
		return "", err
	}
	return strings.TrimSuffix(out.String(), "\n"), nil
}

func shorten(value []byte) string {
	const most = 40
	if text := []rune(string(value)); len(text) > most {
		return string(text[:most]) + "…"
	}
	return string(value)
}

// recordReader reads a JSONL file. It holds one line at a time and the ids seen.
type recordReader struct {
	name   string
	in     *bufio.Reader
	file   io.Closer
	number int
	seen   map[string]int // line of each id
}

// openRecords opens a JSONL file, gzipped or not; "-" is stdin.
func openRecords(path string) (*recordReader, error) {
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
	r := newRecordReader(name, file)
	r.in = text
	return r, nil
}

// newRecordReader reads what file gives, under this name.
func newRecordReader(name string, file io.ReadCloser) *recordReader {
	return &recordReader{name: name, in: bufio.NewReaderSize(file, 1<<16), file: file, seen: map[string]int{}}
}

// Close closes the file.
func (r *recordReader) Close() error { return r.file.Close() }

// next is the next record; blank lines are passed over. The error is io.EOF at the end, a *recordError for a line that
// is no JSON object in UTF-8, or that of reading.
func (r *recordReader) next() (record, error) {
	for {
		line, _, err := r.line()
		if err != nil {
			return record{}, err
		}
		if line = bytes.TrimSpace(line); len(line) > 0 {
			return r.parse(line)
		}
	}
}

// nextNew is next for files in which each record has an id of its own; it gives the id as well. An id that is missing
// or that an earlier line has is a *recordError.
func (r *recordReader) nextNew() (record, string, error) {
	rec, err := r.next()
	if err != nil {
		return record{}, "", err
	}
	id, err := rec.id()
	if err != nil {
		return record{}, "", err
	}
	if line, ok := r.seen[id]; ok {
		return record{}, "", rec.fail("id", "%s is the id of line %d already", id, line)
	}
	r.seen[id] = rec.Number
	return rec, id, nil
}

// line is the next line without its newline; whole tells whether it had one.
func (r *recordReader) line() (line []byte, whole bool, err error) {
	r.number++
	for {
		part, err := r.in.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxLine {
			return nil, false, r.fail("the line is longer than %d MiB", maxLine>>20)
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

// parse makes a record of a line.
func (r *recordReader) parse(line []byte) (record, error) {
	if !utf8.Valid(line) {
		return record{}, r.fail("the line is not UTF-8")
	}
	rec := record{File: r.name, Number: r.number, Raw: line}
	if err := json.Unmarshal(line, &rec.fields); err != nil || rec.fields == nil {
		reason := fmt.Sprintf("%s is not", shorten(line))
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			reason = fmt.Sprintf("%v (byte %d); the line is not", syntax, syntax.Offset)
		}
		return record{}, r.fail("%s a JSON object", reason)
	}
	return rec, nil
}

func (r *recordReader) fail(format string, args ...any) error {
	return &recordError{File: r.name, Line: r.number, Reason: fmt.Sprintf(format, args...)}
}

// countRecords counts the lines of a file that are not blank, for a progress meter; 0 for stdin and other things that
// can be read only once.
func countRecords(path string) (int64, error) {
	info, err := os.Stat(path)
	if path == "-" || (err == nil && !info.Mode().IsRegular()) {
		return 0, nil
	}
	r, err := openRecords(path)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	for n := int64(0); ; {
		line, _, err := r.line()
		var bad *recordError
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

// recordWriter appends records to a JSONL file, whole lines only, so that work which was stopped in any way can go on
// in the same file. Without a file it prints them.
type recordWriter struct {
	out  io.Writer
	file *os.File // nil for printing
	size int64    // of the whole lines in file
	done map[string]bool
}

// openRecordWriter opens the file at path for appending, or makes it; an empty path or "-" prints to stdout instead. A
// last line without a newline, which a crash has left, is cut off. The ids of the whole lines are done, and seen, if not
// nil, is told each of them in its order. A line without an id is a *recordError: the file is the output of something
// else. The file is locked until Close; when another process has it the error wraps streams.ErrInUse.
func openRecordWriter(path string, stdout io.Writer, seen func(r record, id string) error) (_ *recordWriter, err error) {
	w := &recordWriter{out: stdout, done: map[string]bool{}}
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
	err = unix.Flock(int(w.file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("%w: another process writes %s", streams.ErrInUse, path)
	}
	if err != nil && !errors.Is(err, unix.ENOTSUP) { // a file system without locks: nobody to tell
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if err := w.resume(path, seen); err != nil {
		return nil, err
	}
	if err := w.cut(); err != nil {
		return nil, err
	}
	w.out = w.file
	return w, nil
}

// resume reads the whole lines of the file.
func (w *recordWriter) resume(path string, seen func(r record, id string) error) error {
	r := newRecordReader(path, w.file)
	for {
		line, whole, err := r.line()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !whole {
			return r.broken(line)
		}
		w.size += int64(len(line)) + 1
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		rec, id, err := r.output(line)
		if err != nil {
			return err
		}
		w.done[id] = true
		if seen != nil {
			if err := seen(rec, id); err != nil {
				return err
			}
		}
	}
}

// output parses a line of an output file.
func (r *recordReader) output(line []byte) (record, string, error) {
	rec, err := r.parse(line)
	var id string
	if err == nil {
		id, err = rec.id()
	}
	if err != nil {
		return record{}, "", fmt.Errorf("the output file is there, and is none to go on with (name another one): %w", err)
	}
	return rec, id, nil
}

// broken tells whether the last line of a file, which has no newline, is no part of a record: then somebody else wrote
// it, and it is not ours to cut off. Zeros are what some file systems leave after a crash of the machine.
func (r *recordReader) broken(line []byte) error {
	if len(bytes.Trim(line, "\x00")) == 0 || (line[0] == '{' && !json.Valid(line)) {
		return nil
	}
	_, _, err := r.output(line)
	return err
}

// cut takes away what is behind the whole lines, and goes there.
func (w *recordWriter) cut() error {
	if err := w.file.Truncate(w.size); err != nil {
		return err
	}
	_, err := w.file.Seek(w.size, io.SeekStart)
	return err
}

// isDone tells whether the file had a record of this id when it was opened, or got one since.
func (w *recordWriter) isDone(id string) bool { return w.done[id] }

// resumed is how many records there are.
func (w *recordWriter) resumed() int { return len(w.done) }

// write appends one record, which holds the id, as a line. After an error the file ends with a whole line.
func (w *recordWriter) write(id string, v any) error {
	line, err := compact(v)
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
func (w *recordWriter) Close() error {
	if w.file == nil {
		return nil
	}
	return errors.Join(w.file.Sync(), w.file.Close())
}
