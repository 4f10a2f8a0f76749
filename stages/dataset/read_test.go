package dataset_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/stages/dataset"
)

func TestRead(t *testing.T) {
	text := strings.Join([]string{
		`{"prompt": "Name a colour.", "response": "Red.", "contains": ["Red"]}`, // 1
		``, // 2
		`{"id": "a", "prompt": "p", "response": "r", "rejected": "worse"}` + "\r", // 3
		`{"id": 17, "prompt": "p", "response": "r"}`,                              // 4
		`{"id": "a", "prompt": "q", "response": "r"}`,                             // 5
		`{"prompt": "Name a colour.", "response": "Blue."}`,                       // 6
		`{"prompt": "p"}`,                              // 7
		`{"response": "r", "prompt": " \n"}`,           // 8
		`{"prompt": 5, "response": "r"}`,               // 9
		`{"prompt": "p", "response": "r"`,              // 10
		`["p", "r"]`,                                   // 11
		"{\"prompt\": \"p\xff\", \"response\": \"r\"}", // 12
		`null`, // 13
		`{"prompt": "p", "response": "r", "Prompt": "other", "source": 3}`,    // 14
		`{"prompt": "` + strings.Repeat("x", 128<<10) + `", "response": "r"}`, // 15
		`{"prompt_id": "u1", "prompt": "hi", "messages": [{"role": "system", "content": "s"}, ` + //
			`{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}, {"role": "user"}]}`, // 16
		`{"messages": [{"role": "assistant", "content": "hello"}, {"role": "user", "content": "unanswered"}]}`, // 17
		`{"messages": "none"}`,                                          // 18
		`{"id": 1.5, "prompt": "p", "response": "r"}`,                   // 19
		`{"id": "last", "prompt": " kept ", "response": "no line end"}`, // 20
	}, "\n")
	got, err := dataset.Read("train.jsonl", strings.NewReader("\uFEFF"+text))
	if err != nil {
		t.Fatal(err)
	}
	want := dataset.Set{
		Records: []dataset.Record{
			{ID: "4eef85d027f3c351", Prompt: "Name a colour.", Response: "Red.", Contains: []string{"Red"}, Line: 1},
			{ID: "a", Prompt: "p", Response: "r", Rejected: "worse", Line: 3},
			{ID: "17", Prompt: "p", Response: "r", Line: 4},
			{ID: "148de9c5a7a44d19", Prompt: "p", Response: "r", Line: 14},
			{ID: "u1", Prompt: "hi", Response: "hello", Line: 16},
			{ID: "last", Prompt: " kept ", Response: "no line end", Line: 20},
		},
		Report: dataset.Report{
			Source: "train.jsonl", Read: 19, Kept: 6, Malformed: 8, Empty: 3, Duplicate: 2, UnknownKeys: 2, SystemMessages: 1,
			Problems: []dataset.Problem{
				{Source: "train.jsonl", Line: 5, Reason: `same id "a" as line 3`},
				{Source: "train.jsonl", Line: 6, Reason: `same prompt as line 1; give each an "id" to keep both`},
				{Source: "train.jsonl", Line: 7, Reason: `no "response": alignment contrasts the model's answer with a human one`},
				{Source: "train.jsonl", Line: 8, Reason: `no "prompt"`},
				{Source: "train.jsonl", Line: 9, Reason: `"prompt" is not a text`},
				{Source: "train.jsonl", Line: 10, Reason: "not JSON: unexpected end of JSON input"},
				{Source: "train.jsonl", Line: 11, Reason: "not a JSON object"},
				{Source: "train.jsonl", Line: 12, Reason: "not UTF-8 text"},
				{Source: "train.jsonl", Line: 13, Reason: "not a JSON object"},
				{Source: "train.jsonl", Line: 15, Reason: "longer than 128 KiB, which no message can carry"},
				{Source: "train.jsonl", Line: 17, Reason: `no "response": alignment contrasts the model's answer with a human one`},
				{Source: "train.jsonl", Line: 18, Reason: `"messages" is not a list of {"role", "content"}`},
				{Source: "train.jsonl", Line: 19, Reason: `"id" is not a text or a whole number`},
			},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	summary := "6 records of 19 lines; dropped: 8 malformed, 3 empty, 2 duplicate; " +
		"ignored: 2 unknown keys, 1 system messages"
	if got.Report.String() != summary {
		t.Errorf("got %s\nwant %s", got.Report, summary)
	}
}

func TestReadNothingUsable(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "dataset: no usable record in f: 0 records of 0 lines"},
		{"prompts alone", `{"prompt": "a"}` + "\n" + `{"prompt": "b"}`, "dataset: no usable record in f: " +
			"0 records of 2 lines; dropped: 2 empty\n" +
			"f:1: no \"response\": alignment contrasts the model's answer with a human one\n" +
			"f:2: no \"response\": alignment contrasts the model's answer with a human one"},
	} {
		_, err := dataset.Read("f", strings.NewReader(c.text))
		if !errors.Is(err, dataset.ErrNoRecords) || err.Error() != c.want {
			t.Errorf("%s: got %v\nwant %s", c.name, err, c.want)
		}
	}
}

func TestLoadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "train.jsonl")
	if _, err := dataset.Load(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: got %v", err)
	}
	align := load(t, "builtin:demo/align")
	var text bytes.Buffer
	if err := align.WriteJSONL(&text); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if set := load(t, path); set.Digest() != align.Digest() {
		t.Errorf("built-in data read back from JSONL: digest %s, want %s", set.Digest(), align.Digest())
	}
}

func TestReaderError(t *testing.T) {
	broken := errors.New("disk on fire")
	_, err := dataset.Read("f", &failing{text: strings.NewReader(`{"prompt": "a", "response": "b"}` + "\n"), err: broken})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "f: line 2") {
		t.Errorf("got %v", err)
	}
}

// failing ends its text with an error.
type failing struct {
	text *strings.Reader
	err  error
}

func (f *failing) Read(p []byte) (int, error) {
	if f.text.Len() == 0 {
		return 0, f.err
	}
	return f.text.Read(p)
}

func TestFirstAndAnnotated(t *testing.T) {
	set, err := dataset.Read("f", strings.NewReader(
		`{"id": 1, "prompt": "a", "response": "b"}`+"\n"+`{"id": 2, "prompt": "a", "response": "b", "rejected": "c"}`))
	if err != nil {
		t.Fatal(err)
	}
	ids := func(s dataset.Set) (out string) {
		for _, r := range s.Records {
			out += r.ID
		}
		return out
	}
	annotated, err := set.Annotated()
	if err != nil || ids(annotated) != "2" {
		t.Errorf("annotated: got %q, %v", ids(annotated), err)
	}
	if _, err := set.First(1).Annotated(); !errors.Is(err, dataset.ErrNoRecords) {
		t.Errorf("none annotated: got %v", err)
	}
	if got := ids(set.First(1)) + "," + ids(set.First(0)) + "," + ids(set.First(9)); got != "1,12,12" {
		t.Errorf("first: got %s", got)
	}
	if set.Digest() == set.First(1).Digest() {
		t.Error("a part has the digest of the whole")
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"id": 1, "prompt": "a", "response": "b", "rejected": "c", "contains": ["b"], "x": 1}`))
	f.Add([]byte(`{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}` + "\r\n\r\n"))
	f.Add([]byte("{\"prompt\": \"\\ud800\", \"response\": \"\u2028\"}\nnull\n[]\n{\"prompt\": null}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := dataset.Read("f", bytes.NewReader(data))
		if err != nil {
			return
		}
		r := set.Report
		if r.Read != r.Kept+r.Malformed+r.Empty+r.Duplicate || r.Kept != len(set.Records) {
			t.Errorf("counts don't add up: %+v", r)
		}
		ids := map[string]bool{}
		for _, record := range set.Records {
			if ids[record.ID] || record.ID == "" || strings.TrimSpace(record.Prompt) == "" {
				t.Errorf("bad record %+v", record)
			}
			ids[record.ID] = true
		}
		var text bytes.Buffer
		if err := set.WriteJSONL(&text); err != nil {
			t.Fatal(err)
		}
		again, err := dataset.Read("f", &text)
		if err != nil || again.Digest() != set.Digest() || again.Report.Kept != again.Report.Read {
			t.Errorf("written and read back: %v, %s", err, again.Report)
		}
	})
}
