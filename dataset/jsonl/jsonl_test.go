package jsonl

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func readerOf(text string) *Reader {
	return NewReader("in.jsonl", io.NopCloser(strings.NewReader(text)))
}

func TestRecordsAreReadWithTheirLines(t *testing.T) {
	r := readerOf("{\"id\":\"a\",\"n\":[1, 2]}\r\n\n  \n{\"id\": 7, \"text\": \"\\u0041<é\"}")
	first, id, err := r.NextID()
	if err != nil || id != `"a"` || first.Number != 1 || string(first.Raw) != `{"id":"a","n":[1, 2]}` {
		t.Errorf("first: %+v, id %s, %v", first, id, err)
	}
	second, id, err := r.NextID()
	if err != nil || id != "7" || second.Number != 4 {
		t.Errorf("second: %+v, id %s, %v", second, id, err)
	}
	if text, err := second.Text("text"); text != "A<é" || err != nil {
		t.Errorf("text is %q, %v", text, err)
	}
	if _, _, err := r.NextID(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

func TestBadRecordsAreToldByFileLineAndKey(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"no JSON":       {"{\"id\":1,\"text\":\"\"}\n{\"id\":", "in.jsonl:2: unexpected end of JSON input"},
		"no object":     {`["id"]`, `in.jsonl:1: ["id"] is not a JSON object`},
		"null":          {`null`, `in.jsonl:1: null is not a JSON object`},
		"two objects":   {`{"id":1}{"id":2}`, "in.jsonl:1: invalid character '{' after top-level value"},
		"no UTF-8":      {"\n{\"id\":\"\xff\"}", "in.jsonl:2: the line is not UTF-8"},
		"no id":         {`{"text":"a"}`, "in.jsonl:1:id: the key is missing, want a text or a whole number that no other line has"},
		"id is null":    {`{"id":null}`, "in.jsonl:1:id: the key is missing"},
		"fraction":      {`{"id":1.5}`, "in.jsonl:1:id: 1.5 is not a text or a whole number"},
		"same id":       {"{\"id\":\"a\",\"text\":\"\"}\n{\"id\":\"\\u0061\"}", `in.jsonl:2:id: "a" is already the id of line 1`},
		"no text":       {`{"id":1,"text":null}`, "in.jsonl:1:text: the key is missing, want text"},
		"another type":  {`{"id":1,"text":{"a":1}}`, `in.jsonl:1:text: {"a":1} is not text`},
		"no such case":  {`{"id":1,"Text":"a"}`, "in.jsonl:1:text: the key is missing"},
		"a long string": {`"` + strings.Repeat("é", 100) + `"`, `in.jsonl:1: "` + strings.Repeat("é", 39) + "… is not a JSON object"},
	} {
		t.Run(name, func(t *testing.T) {
			r := readerOf(c.text)
			for {
				rec, _, err := r.NextID()
				if err == nil {
					_, err = rec.Text("text")
				}
				if err == nil {
					continue
				}
				var bad *Error
				if !errors.As(err, &bad) || !strings.HasPrefix(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
					t.Errorf("the error is %q, want one line that begins with %q", err, c.want)
				}
				return
			}
		})
	}
}

func TestALineOfNoEndIsRefused(t *testing.T) {
	r := NewReader("in.jsonl", io.NopCloser(endless{}))
	var bad *Error
	if _, err := r.Next(); !errors.As(err, &bad) {
		t.Errorf("the error is %v", err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return copy(p, bytes.Repeat([]byte("a"), len(p))), nil }

func openWriter(t *testing.T, path string) *Writer {
	t.Helper()
	w, err := OpenWriter(path, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

type scoreLine struct {
	ID    json.RawMessage `json:"id"`
	Score float64         `json:"score"`
}

// However many bytes of the file a crash has left: going on gives the file of undisturbed work.
func TestOutputGoesOnFromAnyByte(t *testing.T) {
	dir := t.TempDir()
	ids := []string{`"a"`, `7`, `"<é"`, `"line\nbreak"`, `"last"`}
	work := func(path string) {
		w := openWriter(t, path)
		for i, id := range ids {
			if w.Done(id) {
				continue
			}
			if err := w.Write(id, scoreLine{json.RawMessage(id), float64(i)}); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	whole := filepath.Join(dir, "whole.jsonl")
	work(whole)
	want, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(want, []byte(`{"id":"<é","score":2}`+"\n")) {
		t.Errorf("the file is\n%s", want)
	}
	path := filepath.Join(dir, "part.jsonl")
	for n := range len(want) + 1 {
		if err := os.WriteFile(path, want[:n], 0o644); err != nil {
			t.Fatal(err)
		}
		work(path)
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Fatalf("after %d bytes:\n%s", n, diff)
		}
	}
	w := openWriter(t, whole)
	defer w.Close()
	for _, id := range ids {
		if !w.Done(id) {
			t.Errorf("%s is not found in the output", id)
		}
	}
	if w.Records() != len(ids) || w.Done(`"b"`) {
		t.Errorf("%d records, want %d", w.Records(), len(ids))
	}
}

func TestOneProcessWritesAnOutput(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out.jsonl")
	w := openWriter(t, path)
	if _, err := OpenWriter(path, io.Discard); !errors.Is(err, ErrInUse) {
		t.Errorf("the second one: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := openWriter(t, path).Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOutputOfSomethingElseStaysAsItIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out.jsonl")
	for _, text := range []string{"# notes\nand more", "{\"id\":1}\n{\"text\":\"a\"}\nrest", "[1]\n", "notes", `{"text":"a"}`, "{\"id\":\"\xff\"}\n"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := OpenWriter(path, io.Discard)
		var bad *Error
		if !errors.As(err, &bad) {
			t.Errorf("%q: the error is %v", text, err)
		}
		if left, err := os.ReadFile(path); err != nil || string(left) != text {
			t.Errorf("%q has become %q, %v", text, left, err)
		}
	}
}

func TestRecordsWithoutAFileArePrinted(t *testing.T) {
	var out bytes.Buffer
	w, err := OpenWriter("-", &out)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Write(`"a"`, scoreLine{json.RawMessage(`"a"`), 1}), w.Close()); err != nil {
		t.Fatal(err)
	}
	if out.String() != "{\"id\":\"a\",\"score\":1}\n" {
		t.Errorf("it printed %q", out.String())
	}
}

// Every id keeps one spelling, whatever characters it has, and finds itself in the output.
func TestIDsSurviveTheOutput(t *testing.T) {
	dir, n := t.TempDir(), 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		path := filepath.Join(dir, fmt.Sprintf("%d.jsonl", n))
		text, err := json.Marshal(map[string]string{"id": rapid.String().Draw(t, "id")})
		if err != nil {
			t.Fatal(err)
		}
		_, id, err := readerOf(string(text)).NextID()
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			w, err := OpenWriter(path, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			if n := w.Records(); n > 0 && !w.Done(id) {
				t.Fatalf("%s is not found again", id)
			}
			if err := errors.Join(w.Write(id, scoreLine{json.RawMessage(id), 0.5}), w.Close()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzRecords(f *testing.F) {
	for _, text := range []string{"", "\n", "{\"id\":1}\n", "{\"id\":\"a\",\"text\":\"b\"}\r\n{}", "[", "\xff\n", "{\"id\":1e999}"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r := readerOf(text)
		for last := 0; ; {
			rec, _, err := r.NextID()
			if err == nil {
				_, err = rec.Text("text")
			}
			var bad *Error
			switch {
			case errors.As(err, &bad):
				if bad.Line <= last {
					t.Fatalf("line %d after line %d", bad.Line, last)
				}
				last = bad.Line
				continue
			case errors.Is(err, io.EOF):
				return
			case err != nil:
				t.Fatal(err)
			}
			if rec.Number <= last || !json.Valid(rec.Raw) {
				t.Fatalf("line %d after line %d: %q", rec.Number, last, rec.Raw)
			}
			last = rec.Number
		}
	})
}
