package dataset

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxLine is the longest line of JSONL, in bytes. It leaves room for a long conversation whose first turn is short.
const maxLine = 8 << 20

// Text returns a reader of a file's text, which unzips gzip and skips a byte order mark. The error is that of a bad gzip
// header; other errors come from the reader.
func Text(r io.Reader) (*bufio.Reader, error) {
	const size, zipped, mark = 64 << 10, "\x1f\x8b", "\uFEFF"
	text := bufio.NewReaderSize(r, size)
	if start, _ := text.Peek(len(zipped)); string(start) == zipped {
		unzipped, err := gzip.NewReader(text)
		if err != nil {
			return nil, err
		}
		text = bufio.NewReaderSize(unzipped, size)
	}
	if start, _ := text.Peek(len(mark)); string(start) == mark {
		if _, err := text.Discard(len(mark)); err != nil {
			return nil, err
		}
	}
	return text, nil
}

// lines takes records from JSONL, one object per line. A bad line is dropped, counted and reported with its number. It
// reports whether more records are wanted; the error is that of reading.
func (c *collector) lines(lines *bufio.Reader) (more bool, err error) {
	c.container = "JSONL"
	for number := 1; ; number++ {
		line, long, err := readLine(lines)
		last := errors.Is(err, io.EOF)
		if err != nil && !last {
			return false, fmt.Errorf("dataset: %s: line %d: %w", c.name, number, err)
		}
		if line = bytes.TrimSpace(line); len(line) > 0 {
			if more := c.line(line, long, number); !more {
				return false, nil
			}
		}
		if last {
			return true, nil
		}
	}
}

// readLine reads one line. If the line is longer than maxLine, it returns only its beginning and long is true. It returns
// the last line with io.EOF.
func readLine(r *bufio.Reader) (line []byte, long bool, err error) {
	for {
		part, err := r.ReadSlice('\n')
		if room := maxLine + 1 - len(line); len(part) > room {
			part, long = part[:room], true
		}
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, long, err
		}
	}
}

// line takes one line.
func (c *collector) line(line []byte, long bool, number int) (more bool) {
	c.report.Read++
	at := place{c.name, number}
	drop := func(why reason, format string, args ...any) bool {
		c.drop(at, dropped{why, fmt.Sprintf(format, args...)})
		return true
	}
	var keys map[string]json.RawMessage
	switch {
	case long:
		return drop(tooLong, "longer than %d MiB", maxLine>>20)
	case !utf8.Valid(line):
		return drop(notText, "not UTF-8 text")
	case line[0] == '[' && number == 1:
		return drop(malformed, "not a JSON object but a list: write one object per line (jq -c '.[]' converts the list)")
	case line[0] != '{':
		return drop(malformed, "not a JSON object")
	}
	if err := json.Unmarshal(line, &keys); err != nil {
		return drop(malformed, "not JSON: %v", err)
	}
	row := row{}
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		if !c.columns.known(name) {
			c.ignore(name)
			continue
		}
		row[name] = parseValue(keys[name])
	}
	return c.row(row, at)
}

// parseValue reads a value of a row.
func parseValue(raw json.RawMessage) value {
	switch raw[0] {
	case 'n':
		return value{}
	case '"':
		var text string
		if json.Unmarshal(raw, &text) != nil {
			break
		}
		return value{kind: textValue, text: text}
	case '[':
		var texts []string
		if json.Unmarshal(raw, &texts) == nil {
			return value{kind: textsValue, texts: texts}
		}
		var messages []jsonMessage
		if json.Unmarshal(raw, &messages) != nil {
			break
		}
		v := value{kind: messagesValue}
		for _, m := range messages {
			out, ok := m.message()
			if !ok {
				return value{kind: otherValue}
			}
			v.messages = append(v.messages, out)
		}
		return v
	case 't', 'f', '{':
	default:
		return value{kind: numberValue, text: string(raw)}
	}
	return value{kind: otherValue}
}

// jsonMessage is one turn, as {"role", "content"} or {"from", "value"}.
type jsonMessage struct {
	Role    *string `json:"role"`
	Content *string `json:"content"`
	From    *string `json:"from"`
	Value   *string `json:"value"`
}

func (m jsonMessage) message() (message, bool) {
	role, content := m.Role, m.Content
	if role == nil {
		role, content = m.From, m.Value
	}
	if role == nil {
		return message{}, false
	}
	if content == nil {
		content = new(string)
	}
	return message{strings.Clone(*role), *content}, true
}
