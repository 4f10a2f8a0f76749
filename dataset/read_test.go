package dataset_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/dataset"
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
	got, err := dataset.Read("train.jsonl", strings.NewReader("\uFEFF"+text), dataset.Options{})
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
			Source: "train.jsonl", Format: "JSONL, prompt from prompt, response from response", Files: []string{"train.jsonl"},
			Read: 19, Kept: 6, SystemMessages: 1, LaterTurns: 1, Ignored: []string{"Prompt", "source"},
			Dropped: []dataset.Dropped{
				{Reason: "malformed", Count: 6},
				{Reason: "not UTF-8", Count: 1},
				{Reason: "empty prompt", Count: 1},
				{Reason: "empty response", Count: 1},
				{Reason: "no assistant turn", Count: 1},
				{Reason: "too long", Count: 1},
				{Reason: "duplicate", Count: 2},
			},
			Problems: []dataset.Problem{
				{Source: "train.jsonl", Line: 5, Reason: `same id "a" as line 3`},
				{Source: "train.jsonl", Line: 6, Reason: `same prompt as line 1; give each an "id" to keep both`},
				{Source: "train.jsonl", Line: 7, Reason: `no "response": every record needs a human response`},
				{Source: "train.jsonl", Line: 8, Reason: `no "prompt"`},
				{Source: "train.jsonl", Line: 9, Reason: `"prompt" is not a text or a list of {"role", "content"}`},
				{Source: "train.jsonl", Line: 10, Reason: "not JSON: unexpected end of JSON input"},
				{Source: "train.jsonl", Line: 11, Reason: "not a JSON object"},
				{Source: "train.jsonl", Line: 12, Reason: "not UTF-8 text"},
				{Source: "train.jsonl", Line: 13, Reason: "not a JSON object"},
				{Source: "train.jsonl", Line: 15, Reason: "its texts are longer than 128 KiB together"},
				{Source: "train.jsonl", Line: 17, Reason: `no assistant turn in "messages"`},
				{Source: "train.jsonl", Line: 18, Reason: `"messages" is not a text or a list of {"role", "content"}`},
				{Source: "train.jsonl", Line: 19, Reason: `"id" is not a text or a whole number`},
			},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	summary := "6 records of 19 rows; dropped: 6 malformed, 1 not UTF-8, 1 empty prompt, 1 empty response, " +
		"1 no assistant turn, 1 too long, 2 duplicate; ignored: 1 system messages, " +
		"later turns of 1 conversations, columns Prompt source"
	if got.Report.String() != summary {
		t.Errorf("got %s\nwant %s", got.Report, summary)
	}
}

func TestReadNothingUsable(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "dataset: no usable record in f: 0 records of 0 rows"},
		{"prompts alone", `{"prompt": "a"}` + "\n" + `{"prompt": "b"}`, "dataset: no usable record in f: " +
			"0 records of 2 rows; dropped: 2 empty response\n" +
			"f:1: no \"response\": every record needs a human response\n" +
			"f:2: no \"response\": every record needs a human response"},
		{"other columns", `{"prompt": "a", "answer": "b"}`, "dataset: no usable record in f: " +
			"0 records of 1 rows; dropped: 1 empty response; ignored: columns answer\n" +
			"f:1: no \"response\": every record needs a human response\n" +
			"if an ignored column contains what is missing, name it by data.columns in the spec, or by --columns of `ldalign data inspect` (docs/data.md)"},
	} {
		_, err := dataset.Read("f", strings.NewReader(c.text), dataset.Options{})
		if !errors.Is(err, dataset.ErrNoRecords) || err.Error() != c.want {
			t.Errorf("%s: got %v\nwant %s", c.name, err, c.want)
		}
	}
}

func TestLoadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "train.jsonl")
	if _, err := dataset.Load(path, dataset.Options{}); !errors.Is(err, os.ErrNotExist) {
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
	_, err := dataset.Read("f", &failing{text: strings.NewReader(`{"prompt": "a", "response": "b"}` + "\n"), err: broken}, dataset.Options{})
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

func TestOptions(t *testing.T) {
	const text = `{"id": 1, "prompt": "a", "response": "b"}
{"id": 2, "prompt": "a", "response": "b", "rejected": "c", "distance": 0.5, "ref_chosen_logp": -1, "ref_rejected_logp": -2.5}
{"id": 3, "prompt": "a", "response": "b", "rejected": "b"}
{"id": 4, "prompt": "a", "response": "b", "rejected": "d", "ref_chosen_logp": -1}
{"id": 5, "prompt": "a", "response": "b", "rejected": "d", "distance": -1}
{"id": 6, "prompt": "a", "response": "b", "rejected": "d", "distance": "far"}`
	read := func(o dataset.Options) (dataset.Set, string) {
		t.Helper()
		set, err := dataset.Read("f", strings.NewReader(text), o)
		if err != nil {
			t.Fatal(err)
		}
		ids := ""
		for _, r := range set.Records {
			ids += r.ID
		}
		return set, ids
	}
	all, ids := read(dataset.Options{})
	if ids != "123456" {
		t.Errorf("all: got %s", ids)
	}
	pairs, ids := read(dataset.Options{Pairs: true})
	want := "2 records of 6 rows; dropped: 1 no rejected response, 1 equal responses, 2 bad number"
	if ids != "24" || pairs.Report.String() != want {
		t.Errorf("pairs: got %s, %s", ids, pairs.Report)
	}
	half := 0.5
	if diff := cmp.Diff(dataset.Record{
		ID: "2", Prompt: "a", Response: "b", Rejected: "c", Distance: &half, Reference: &[2]float64{-1, -2.5}, Line: 2,
	}, pairs.Records[0]); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if pairs.Records[1].Reference != nil {
		t.Error("half a reference was taken")
	}
	if _, ids = read(dataset.Options{Pairs: true, Distances: true}); ids != "2" {
		t.Errorf("with distances: got %s", ids)
	}
	first, ids := read(dataset.Options{Limit: 3})
	if ids != "123" || first.Report.String() != "the first 3 records, of 3 rows" {
		t.Errorf("limit: got %s, %s", ids, first.Report)
	}
	if all.Digest() == first.Digest() {
		t.Error("a part has the digest of the whole")
	}
	if _, err := dataset.Read("f", strings.NewReader(`{"id": 1, "prompt": "a", "response": "b"}`), dataset.Options{Pairs: true}); !errors.Is(err, dataset.ErrNoRecords) {
		t.Errorf("no pairs: got %v", err)
	}
}

// TestDigestCoversGivenNumbers: the digest covers the distances and log-probs in the data, because training depends on them.
func TestDigestCoversGivenNumbers(t *testing.T) {
	digests := map[string]string{}
	for _, more := range []string{
		``, `, "distance": 1`, `, "distance": 2`, `, "ref_chosen_logp": 1, "ref_rejected_logp": 2`,
		`, "ref_chosen_logp": 2, "ref_rejected_logp": 1`,
	} {
		set, err := dataset.Read("f", strings.NewReader(`{"prompt": "a", "response": "b", "rejected": "c"`+more+`}`),
			dataset.Options{Pairs: true})
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := digests[set.Digest()]; ok {
			t.Errorf("%q and %q have one digest", more, other)
		}
		digests[set.Digest()] = more
	}
}

// TestSubset: the choice of a record depends on seed and ids only, not on the order of records or on the other records.
func TestSubset(t *testing.T) {
	all := load(t, "builtin:demo/align")
	take := func(records []dataset.Record, seed uint64, n int) map[string]bool {
		t.Helper()
		var text bytes.Buffer
		if err := (dataset.Set{Records: records}).WriteJSONL(&text); err != nil {
			t.Fatal(err)
		}
		set, err := dataset.Read("f", &text, dataset.Options{Subset: n, Seed: seed})
		if err != nil {
			t.Fatal(err)
		}
		if len(set.Records) != n || set.Report.Left != len(records)-n {
			t.Errorf("%d records, %d left; want %d of %d", len(set.Records), set.Report.Left, n, len(records))
		}
		ids, last := map[string]bool{}, 0
		for _, r := range set.Records {
			ids[r.ID] = true
			if r.Line <= last {
				t.Fatal("a subset is not in the order of its source")
			}
			last = r.Line
		}
		return ids
	}
	want := take(all.Records, 1, 100)
	turned := slices.Clone(all.Records)
	slices.Reverse(turned)
	if diff := cmp.Diff(want, take(turned, 1, 100)); diff != "" {
		t.Error("the order of the records changes the subset")
	}
	if cmp.Equal(want, take(all.Records, 2, 100)) {
		t.Error("another seed takes the same subset")
	}
	for id := range take(all.Records, 1, 50) {
		if !want[id] {
			t.Error("a smaller subset is no part of a larger one")
			break
		}
	}
	set, err := dataset.Load("builtin:demo/align", dataset.Options{Subset: 100, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	if set.Report.String() != "100 records of 1500 rows, chosen at random from 1500" || !want[set.Records[0].ID] {
		t.Errorf("built-in data: %s", set.Report)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"id": 1, "prompt": "a", "response": "b", "rejected": "c", "contains": ["b"], "x": 1}`))
	f.Add([]byte(`{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}` + "\r\n\r\n"))
	f.Add([]byte("{\"prompt\": \"\\ud800\", \"response\": \"\u2028\"}\nnull\n[]\n{\"prompt\": null}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := dataset.Read("f", bytes.NewReader(data), dataset.Options{})
		if err != nil {
			return
		}
		checkCounts(t, set)
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
		again, err := dataset.Read("f", &text, dataset.Options{})
		if err != nil || again.Digest() != set.Digest() || again.Report.Kept != again.Report.Read {
			t.Errorf("written and read back: %v, %s", err, again.Report)
		}
	})
}
