package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"unicode/utf8"
)

// errInput means a line of the input that cannot be used. Its text begins with the file's name and the line's number.
var errInput = errors.New("invalid input")

// object is a JSON object with its fields in their order, so that a verb adds fields to a record and leaves the rest as
// it is.
type object []field

type field struct {
	key   string
	value json.RawMessage
}

// parseObject reads one object.
func parseObject(line []byte) (object, error) {
	d := json.NewDecoder(bytes.NewReader(line))
	start, err := d.Token()
	if err != nil {
		return nil, jsonError(err)
	}
	if start != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	var o object
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, jsonError(err)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, jsonError(err)
		}
		name, _ := key.(string)
		o.put(name, value)
	}
	if _, err := d.Token(); err != nil {
		return nil, jsonError(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON object")
	}
	return o, nil
}

func jsonError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the JSON object has no end")
	}
	return fmt.Errorf("not JSON: %w", err)
}

// get is the value of a key, nil where there is none.
func (o object) get(key string) json.RawMessage {
	for _, f := range o {
		if f.key == key {
			return f.value
		}
	}
	return nil
}

// text is the string at a key. Its error names the key.
func (o object) text(key string) (string, error) {
	raw := o.get(key)
	if raw == nil {
		return "", fmt.Errorf("%s is missing", key)
	}
	var s *string
	if err := json.Unmarshal(raw, &s); err != nil || s == nil {
		return "", fmt.Errorf("%s is not a string", key)
	}
	return *s, nil
}

// id names the record: its id, or the number of its line where it has none.
func (o object) id(line int) string {
	raw := o.get("id")
	var s string
	switch {
	case raw == nil:
		return fmt.Sprint(line)
	case json.Unmarshal(raw, &s) == nil:
		return s
	}
	return string(raw)
}

// set puts a value at a key, behind the others when the key is new.
func (o *object) set(key string, value any) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	o.put(key, raw)
	return nil
}

func (o *object) put(key string, raw json.RawMessage) {
	for i := range *o {
		if (*o)[i].key == key {
			(*o)[i].value = raw
			return
		}
	}
	*o = append(*o, field{key, raw})
}

// MarshalJSON writes the fields in their order.
func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, f := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		key, err := json.Marshal(f.key)
		if err != nil {
			return nil, err
		}
		b.Write(key)
		b.WriteByte(':')
		b.Write(f.value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// lineReader reads records from a file of JSON lines. Blank lines are skipped.
type lineReader struct {
	name string
	file io.Closer
	r    *bufio.Reader
	line int
}

// openLines opens a file; "-" is standard input.
func openLines(name string) (*lineReader, error) {
	if name == "-" {
		return &lineReader{name: "standard input", file: io.NopCloser(nil), r: bufio.NewReader(os.Stdin)}, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	return &lineReader{name: name, file: f, r: bufio.NewReaderSize(f, 1<<16)}, nil
}

// next reads the next record. At the end the error is io.EOF; a line that is no record gives one that wraps errInput.
func (l *lineReader) next() (object, error) {
	for {
		line, err := l.r.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%s: %w", l.name, err)
		}
		if len(line) == 0 {
			return nil, io.EOF
		}
		l.line++
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		if !utf8.Valid(line) {
			return nil, l.fail(errors.New("not UTF-8"))
		}
		o, err := parseObject(line)
		if err != nil {
			return nil, l.fail(err)
		}
		return o, nil
	}
}

// fail is an error about the line that was read last.
func (l *lineReader) fail(err error) error {
	return fmt.Errorf("%w: %s:%d: %w", errInput, l.name, l.line, err)
}

func (l *lineReader) Close() error { return l.file.Close() }

// lineWriter appends records to a file of JSON lines, one write each, so that a process that dies leaves whole lines and
// at most one that is cut off. A file that exists is gone on with: the cut-off line is taken away, and what is done is
// known by its ids.
type lineWriter struct {
	w    io.Writer
	file *os.File
	kept map[string]bool
}

// openOutput opens a file, or takes stdout for "" and "-". settings are what decides the records; they are kept beside
// the file, and a file written with other settings is refused.
func openOutput(name string, stdout io.Writer, settings any) (*lineWriter, error) {
	if name == "" || name == "-" {
		return &lineWriter{w: stdout}, nil
	}
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	w := &lineWriter{w: file, file: file, kept: map[string]bool{}}
	if err := errors.Join(w.resume(), w.checkSettings(name+".settings.json", settings)); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return w, nil
}

// resume reads what there is and goes to the end of its last whole line.
func (w *lineWriter) resume() error {
	whole := int64(0)
	lines := &lineReader{name: w.file.Name(), r: bufio.NewReaderSize(w.file, 1<<16)}
	for {
		line, err := lines.r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%s: %w", w.file.Name(), err)
		}
		lines.line++
		o, err := parseObject(bytes.TrimSpace(line))
		if err != nil {
			return fmt.Errorf("%w; it is no output of this verb, name another file", lines.fail(err))
		}
		w.kept[o.id(lines.line)] = true
		whole += int64(len(line))
	}
	if err := w.file.Truncate(whole); err != nil {
		return err
	}
	_, err := w.file.Seek(whole, io.SeekStart)
	return err
}

func (w *lineWriter) checkSettings(name string, settings any) error {
	want, err := json.MarshalIndent(settings, "", "  ")
	if err != nil {
		return err
	}
	want = append(want, '\n')
	if len(w.kept) == 0 {
		return os.WriteFile(name, want, 0o644) //nolint:gosec // as readable as the output itself
	}
	was, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("%s has records, but there is nothing that tells how they were made (%w): name another --out",
			w.file.Name(), err)
	}
	if !bytes.Equal(was, want) {
		return fmt.Errorf("%w: %s was written with other settings than these (see %s): name another --out, or remove both files",
			errUsage, w.file.Name(), name)
	}
	return nil
}

// has tells whether the record with an id is in the file already.
func (w *lineWriter) has(id string) bool { return w.kept[id] }

// write appends a record.
func (w *lineWriter) write(o object) error {
	line, err := json.Marshal(o)
	if err != nil {
		return err
	}
	_, err = w.w.Write(append(line, '\n'))
	return err
}

func (w *lineWriter) Close() error {
	if w.file == nil {
		return nil
	}
	return w.file.Close()
}
