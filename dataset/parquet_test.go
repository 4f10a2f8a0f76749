package dataset_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/dataset"
	"github.com/ldalign/ldalign/schemas"
)

func checkCounts(t *testing.T, set dataset.Set) {
	t.Helper()
	sum := set.Report.Kept + set.Report.Left
	for _, d := range set.Report.Dropped {
		sum += d.Count
	}
	if set.Report.Read != sum || set.Report.Kept != len(set.Records) {
		t.Errorf("counts don't add up: %+v", set.Report)
	}
}

// TestUltrachat reads two shards with row groups and pages smaller than a conversation's column.
func TestUltrachat(t *testing.T) {
	for _, source := range []string{
		"testdata/ultrachat", "testdata/ultrachat/train_sft-*.parquet",
		"testdata/ultrachat/train_sft-00000-of-00002.parquet, testdata/ultrachat/train_sft-00001-of-00002.parquet",
	} {
		set := load(t, source)
		checkCounts(t, set)
		want := "33 records of 40 rows in 2 files; dropped: 1 unknown role, 3 empty response, 2 no assistant turn, 1 duplicate; " +
			"ignored: 1 system messages, later turns of 33 conversations"
		if set.Report.String() != want {
			t.Errorf("%s: %s", source, set.Report)
		}
		if f := set.Report.Format; f != "Parquet, prompt from messages, response from messages" {
			t.Errorf("format: %s", f)
		}
		last := set.Records[len(set.Records)-1]
		if last.Prompt != "Question 39?" || last.Response != "Answer 39." || last.ID != strings.Repeat("0", 62)+"27" || last.Line != 15 {
			t.Errorf("last record: %+v", last)
		}
	}
}

func TestUltrafeedback(t *testing.T) {
	set, err := dataset.Load("testdata/ultrafeedback.parquet", dataset.Options{Pairs: true})
	if err != nil {
		t.Fatal(err)
	}
	checkCounts(t, set)
	want := "3 records of 6 rows; dropped: 1 no rejected response, 1 equal responses, " +
		"1 other prompt in the rejected conversation; ignored: columns score_chosen score_rejected"
	if set.Report.String() != want {
		t.Errorf("got %s", set.Report)
	}
	if f := set.Report.Format; f != "Parquet, prompt from chosen, response from chosen, rejected from rejected" {
		t.Errorf("format: %s", f)
	}
	r := set.Records[2]
	if r.Prompt != "Question 5?" || r.Response != "Good 5." || r.Rejected != "Bad 5." {
		t.Errorf("record: %+v", r)
	}
}

func TestSPIN(t *testing.T) {
	set, err := dataset.Load("testdata/spin.parquet", dataset.Options{Pairs: true})
	if err != nil {
		t.Fatal(err)
	}
	r := set.Records[1]
	if len(set.Records) != 2 || r.Prompt != "b?" || r.Response != "real b" || r.Rejected != "generated b" {
		t.Errorf("%+v", set.Records)
	}
}

func TestColumns(t *testing.T) {
	columns := schemas.ColumnsSpec{
		ID: "uuid", Prompt: "question", Response: "answer", Rejected: "worse", Distance: "s", RefChosen: "logp", RefRejected: "logp_worse",
	}
	set, err := dataset.Load("testdata/plain.parquet", dataset.Options{Columns: columns, Pairs: true})
	if err != nil {
		t.Fatal(err)
	}
	half := 0.5
	want := []dataset.Record{
		{
			ID: "7", Prompt: "a?", Response: "good a", Rejected: "bad a", Contains: []string{"a"}, Distance: &half,
			Reference: &[2]float64{-1.25, -3}, Line: 1,
		},
		{ID: "8", Prompt: "b?", Response: "good b", Rejected: "bad b", Reference: &[2]float64{-2.5, -4}, Line: 2},
	}
	if diff := cmp.Diff(want, set.Records); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if s := set.Report.String(); s != "2 records of 4 rows; dropped: 1 empty prompt, 1 bad number; ignored: columns vector" {
		t.Errorf("got %s", s)
	}
	for _, c := range []struct {
		name, file string
		o          dataset.Options
		want       []string
	}{
		{"other names", "plain", dataset.Options{}, []string{"no column for the response", "uuid, question, answer, worse, s, logp", "data.columns.response"}},
		{"a name that is not there", "plain", dataset.Options{Columns: schemas.ColumnsSpec{Prompt: "query", Response: "answer"}}, []string{"query", "data.columns.prompt"}},
		{"no prompt", "plain", dataset.Options{Columns: schemas.ColumnsSpec{Response: "answer"}}, []string{"no column for the prompt", "question"}},
		{"no pairs", "ultrachat/train_sft-00000-of-00002", dataset.Options{Pairs: true}, []string{"no column for the rejected response", "prompt_id"}},
		{"no distance", "spin", dataset.Options{Pairs: true, Distances: true}, []string{"no column for the distance", "real, generated"}},
		{"no rows", "empty", dataset.Options{}, []string{"no usable record", "0 rows"}},
	} {
		_, err := dataset.Load("testdata/"+c.file+".parquet", c.o)
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %q", c.name, err, want)
			}
		}
	}
	bytes := load(t, "testdata/bytes.parquet")
	if bytes.Report.String() != "1 records of 2 rows; dropped: 1 not UTF-8" {
		t.Errorf("bytes: %s", bytes.Report)
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	folder := func(names ...string) string {
		t.Helper()
		sub := t.TempDir()
		for _, name := range names {
			if err := os.WriteFile(filepath.Join(sub, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return sub
	}
	files, err := dataset.Files(folder("b.jsonl", "a.jsonl", "notes.txt", ".hidden.jsonl"))
	if err != nil || len(files) != 2 || filepath.Base(files[0]) != "a.jsonl" {
		t.Errorf("a folder: %v, %v", files, err)
	}
	for _, c := range []struct{ source, want string }{
		{folder("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"), "contains the splits test, train"},
		{folder("a.jsonl", "a.parquet"), "end with .jsonl, .parquet"},
		{folder(), "contains no file that ends with .parquet"},
		{filepath.Join(dir, "none-*.parquet"), "no file matches"},
		{filepath.Join(dir, "none.parquet"), "no such file"},
		{"testdata/spin.parquet, testdata/s*.parquet", "appears twice"},
		{" , ", "names no file"},
	} {
		if _, err := dataset.Files(c.source); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.source, err, c.want)
		}
	}
}

// TestDamagedParquet truncates a file at every byte and changes every byte of it. Each result is read or refused, and nothing
// panics.
func TestDamagedParquet(t *testing.T) {
	data, err := os.ReadFile("testdata/spin.parquet")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "f.parquet")
	read := func(data []byte) error {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := dataset.Load(path, dataset.Options{})
		return err
	}
	for n := 4; n < len(data); n++ {
		if err := read(data[:n]); err == nil || errors.Is(err, dataset.ErrNoRecords) {
			t.Fatalf("cut off at %d: %v", n, err)
		}
	}
	var before, after runtime.MemStats
	refused := 0
	for i := 4; i < len(data); i++ {
		bad := bytes.Clone(data)
		bad[i] ^= []byte{0xff, 0x80}[i%2]
		runtime.ReadMemStats(&before)
		if read(bad) != nil {
			refused++
		}
		runtime.ReadMemStats(&after)
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 600<<20 {
			t.Errorf("byte %d: %d MB were allocated for a file of %d bytes", i, grown>>20, len(data))
		}
	}
	if refused < len(data)/5 {
		t.Errorf("only %d of %d spoiled files were refused", refused, len(data))
	}
}

func FuzzParquet(f *testing.F) {
	files, err := filepath.Glob("testdata/*.parquet")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range append(files, "testdata/ultrachat/train_sft-00000-of-00002.parquet") {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if set, err := dataset.Load(path, dataset.Options{}); err == nil {
			checkCounts(t, set)
		}
	})
}
