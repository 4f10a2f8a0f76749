package dataset

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxLine bounds a line of JSONL, in bytes. A record travels in messages of under 256 KiB together with token ids and
// latents.
const maxLine = 128 << 10

// Read takes records from JSONL, a line at a time: {"id"?, "prompt", "response", "rejected"?, "contains"?}, or as
// chat data has it {"messages": [{"role", "content"}, …]}, of which the first user message and the first assistant
// message after it are used. Without an id, the prompt's hash is the id. A bad line is dropped, counted and told with
// its number in the report; unknown keys are counted. The error is ErrNoRecords when nothing is left, or the reader's
// own; source stands for the file.
func Read(source string, r io.Reader) (Set, error) {
	set := Set{Report: Report{Source: source}}
	report, first := &set.Report, map[string]int{}
	lines := bufio.NewReaderSize(r, 64<<10)
	for number := 1; ; number++ {
		line, long, err := readLine(lines)
		if err != nil && !errors.Is(err, io.EOF) {
			return Set{}, fmt.Errorf("dataset: %s: line %d: %w", source, number, err)
		}
		if number == 1 {
			line = bytes.TrimPrefix(line, []byte("\uFEFF"))
		}
		if line = bytes.TrimSpace(line); len(line) > 0 {
			report.Read++
			report.add(&set.Records, first, line, long, number)
		}
		if err != nil {
			break
		}
	}
	report.Kept = len(set.Records)
	if report.Kept == 0 {
		err := fmt.Errorf("%w in %s: %s", ErrNoRecords, source, report)
		for _, p := range report.Problems[:min(3, len(report.Problems))] {
			err = fmt.Errorf("%w\n%s", err, p)
		}
		return Set{}, err
	}
	return set, nil
}

// readLine reads up to a line's end. Of a line that is longer than maxLine it returns only the beginning, and long is
// true. The last line comes with io.EOF.
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

// add turns one line into a record, or drops it. first has the line of each id.
func (r *Report) add(records *[]Record, first map[string]int, line []byte, long bool, number int) {
	if long {
		r.drop(&r.Malformed, number, fmt.Sprintf("longer than %d KiB, which no message can carry", maxLine>>10))
		return
	}
	record, err := r.parse(line)
	if err != nil {
		r.drop(&r.Malformed, number, err.Error())
		return
	}
	switch {
	case strings.TrimSpace(record.Prompt) == "":
		r.drop(&r.Empty, number, `no "prompt"`)
		return
	case strings.TrimSpace(record.Response) == "":
		r.drop(&r.Empty, number, `no "response": alignment contrasts the model's answer with a human one`)
		return
	}
	named := record.ID != ""
	if !named {
		record.ID = promptID(record.Prompt)
	}
	if at, dup := first[record.ID]; dup {
		reason := fmt.Sprintf("same id %q as line %d", record.ID, at)
		if !named {
			reason = fmt.Sprintf(`same prompt as line %d; give each an "id" to keep both`, at)
		}
		r.drop(&r.Duplicate, number, reason)
		return
	}
	first[record.ID] = number
	record.Line = number
	*records = append(*records, record)
}

// parse reads one line. Keys are matched exactly.
func (r *Report) parse(line []byte) (Record, error) {
	if !utf8.Valid(line) {
		return Record{}, errors.New("not UTF-8 text")
	}
	if line[0] != '{' {
		return Record{}, errors.New("not a JSON object")
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(line, &keys); err != nil {
		return Record{}, fmt.Errorf("not JSON: %w", err)
	}
	var (
		record   Record
		messages []message
		id, alt  identity
	)
	known := []struct {
		key    string
		into   any
		expect string
	}{
		{"id", &id, "a text or a whole number"},
		{"prompt_id", &alt, "a text or a whole number"},
		{"prompt", &record.Prompt, "a text"},
		{"response", &record.Response, "a text"},
		{"rejected", &record.Rejected, "a text"},
		{"contains", &record.Contains, "a list of texts"},
		{"messages", &messages, `a list of {"role", "content"}`},
	}
	for _, k := range known {
		raw, ok := keys[k.key]
		if !ok {
			continue
		}
		if err := json.Unmarshal(raw, k.into); err != nil {
			return Record{}, fmt.Errorf("%q is not %s", k.key, k.expect)
		}
		delete(keys, k.key)
	}
	r.UnknownKeys += len(keys)
	record.ID = string(id)
	if record.ID == "" {
		record.ID = string(alt)
	}
	if record.Response == "" && len(messages) > 0 {
		record.Prompt, record.Response = r.firstTurn(messages)
	}
	return record, nil
}

// message is one turn of chat data.
type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// firstTurn is the first user message and the first assistant message after it; empty where there is none.
func (r *Report) firstTurn(messages []message) (prompt, response string) {
	for _, m := range messages {
		if m.Role == "system" {
			r.SystemMessages++
		}
	}
	user := slices.IndexFunc(messages, func(m message) bool { return m.Role == "user" })
	if user < 0 {
		return "", ""
	}
	for _, m := range messages[user:] {
		if m.Role == "assistant" {
			return messages[user].Content, m.Content
		}
	}
	return messages[user].Content, ""
}

// identity is an id, which data sets write as text or as a number.
type identity string

// UnmarshalJSON takes a text or a whole number.
func (id *identity) UnmarshalJSON(raw []byte) error {
	if raw[0] == '"' {
		return json.Unmarshal(raw, (*string)(id))
	}
	var n json.Number
	if err := json.Unmarshal(raw, &n); err != nil {
		return err
	}
	if strings.ContainsAny(n.String(), ".eE") {
		return fmt.Errorf("%s is not whole", n)
	}
	*id = identity(n)
	return nil
}
