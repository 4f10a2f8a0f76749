package jsonl

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// Line is one line of a JSONL file: a JSON object.
type Line struct {
	File   string
	Number int    // from 1
	Raw    []byte // the object as it stands in the file
	fields map[string]json.RawMessage
}

// Error is the error of a line of a JSONL file, or of one of its keys.
type Error struct {
	File   string
	Line   int
	Key    string // empty for the line as a whole
	Reason string
}

func (e *Error) Error() string {
	if e.Key == "" {
		return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Reason)
	}
	return fmt.Sprintf("%s:%d:%s: %s", e.File, e.Line, e.Key, e.Reason)
}

// Errorf returns an *Error about a key of the line, or about the whole line if key is empty.
func (l Line) Errorf(key, format string, args ...any) error {
	return &Error{File: l.File, Line: l.Number, Key: key, Reason: fmt.Sprintf(format, args...)}
}

// Has reports whether the key is present and not null.
func (l Line) Has(key string) bool {
	value, ok := l.fields[key]
	return ok && !bytes.Equal(value, []byte("null"))
}

// Decode decodes the value of a key that must be present. want names the expected type ("text"), for the *Error about a
// value of another type.
func (l Line) Decode(key, want string, v any) error {
	if !l.Has(key) {
		return l.Errorf(key, "the key is missing, want %s", want)
	}
	if err := json.Unmarshal(l.fields[key], v); err != nil {
		return l.Errorf(key, "%s is not %s", shorten(l.fields[key]), want)
	}
	return nil
}

// Text is the text of a key that must be present.
func (l Line) Text(key string) (text string, err error) {
	err = l.Decode(key, "text", &text)
	return text, err
}

// ID is the line's id, a text or a whole number under the key "id", as JSON. Each id has one spelling.
func (l Line) ID() (string, error) {
	const want = "a text or a whole number that no other line has (jq -c '.id = input_line_number' numbers the lines)"
	var text string
	if l.Has("id") && json.Unmarshal(l.fields["id"], &text) == nil {
		return Marshal(text)
	}
	var number int64
	if err := l.Decode("id", want, &number); err != nil {
		return "", err
	}
	return Marshal(number)
}

// Marshal is a value as JSON in one line. Unlike json.Marshal it leaves characters as they are: "<" is not written as
// \u003c.
func Marshal(v any) (string, error) {
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
