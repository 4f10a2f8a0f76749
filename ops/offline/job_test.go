package offline

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/ldalign/ldalign/dataset/jsonl"
	"github.com/ldalign/ldalign/ops/progress"
	"github.com/ldalign/ldalign/ops/runs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lengths is a job that adds the length of a text. It emits the records of a window last to first, and ends with failure
// at the text that fails.
func lengths(settings string, window int, fails string, failure error) Job {
	return Job{
		Verb: "measure", Settings: map[string]any{"unit": settings}, Window: window,
		Prepare: func(r *Item) error {
			_, err := r.Text("text")
			return err
		},
		Work: func(_ context.Context, records []*Item, emit func(i int) error) error {
			for i := len(records) - 1; i >= 0; i-- {
				text, err := records[i].Text("text")
				if err != nil {
					return err
				}
				if text == fails {
					return failure
				}
				if err := errors.Join(records[i].Set("length", len(text)), emit(i)); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func files(t *testing.T, input, output string) Files {
	t.Helper()
	display := progress.New(io.Discard, progress.Options{JSON: true})
	t.Cleanup(func() {
		if err := display.Close(); err != nil {
			t.Error(err)
		}
	})
	return Files{Input: input, Output: output, Display: display}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

const input = `{"id": 1, "text": "a"}
{"id": "b", "text": "bb"}
{"id": 3, "text": "ccc"}
{"id": 4, "text": ""}
{"id": 5, "text": "e"}
`

const output = `{"id":1,"text":"a","length":1}
{"id":"b","text":"bb","length":2}
{"id":3,"text":"ccc","length":3}
{"id":4,"text":"","length":0}
{"id":5,"text":"e","length":1}
`

func TestJobContinuesWhereItWasStopped(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	in, out := filepath.Join(dir, "in.jsonl"), filepath.Join(dir, "out.jsonl")
	write(t, in, input)
	f := files(t, in, out)
	done, before, err := lengths("bytes", 2, "ccc", context.Canceled).Run(ctx, f)
	var interrupted *Interrupted
	if done != 2 || before != 0 || !errors.As(err, &interrupted) || !errors.Is(err, context.Canceled) {
		t.Errorf("%d done, %d before, %v", done, before, err)
	}
	if want := (Interrupted{Output: out, Now: 2, All: 2}); interrupted != nil && *interrupted != want {
		t.Errorf("%+v, want %+v", *interrupted, want)
	}
	if got := read(t, out); !strings.HasPrefix(output, got) || strings.Count(got, "\n") != 2 {
		t.Errorf("the output is\n%s", got)
	}
	if _, _, err := lengths("runes", 2, "-", nil).Run(ctx, f); !errors.Is(err, runs.ErrSettings) {
		t.Errorf("with other settings: %v", err)
	}
	if done, before, err = lengths("bytes", 3, "-", nil).Run(ctx, f); done != 3 || before != 2 || err != nil {
		t.Errorf("%d done, %d before, %v", done, before, err)
	}
	if got := read(t, out); got != output {
		t.Errorf("the output is\n%s", got)
	}
	if err := os.Remove(out + ".settings.json"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := lengths("bytes", 2, "-", nil).Run(ctx, f); !errors.Is(err, runs.ErrSettings) {
		t.Errorf("without the settings: %v", err)
	}
}

// A bad line ends a job behind the records before it, and is named; without a file the output is printed.
func TestJobEndsAtABadLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "in.jsonl")
	write(t, path, strings.Replace(input, `"ccc"`, "3", 1))
	f := files(t, path, "-")
	var printed bytes.Buffer
	f.Stdout = &printed
	done, _, err := lengths("bytes", 4, "-", nil).Run(t.Context(), f)
	var bad *jsonl.Error
	if !errors.As(err, &bad) || bad.Line != 3 || bad.Key != "text" || done != 2 {
		t.Errorf("%d done, %v", done, err)
	}
	if got := printed.String(); !strings.HasPrefix(output, got) || strings.Count(got, "\n") != 2 {
		t.Errorf("it printed\n%s", got)
	}
	write(t, path, "\n")
	if _, _, err := lengths("bytes", 4, "-", nil).Run(t.Context(), f); err == nil || !strings.Contains(err.Error(), "no records") {
		t.Errorf("an empty file: %v", err)
	}
}

func TestSummaryKeepsItsOrder(t *testing.T) {
	got, err := json.Marshal(Summary{{"tokens", 7}, {"before", 0}, {"seconds", 0.25}})
	if want := `{"tokens":7,"before":0,"seconds":0.25}`; string(got) != want || err != nil {
		t.Errorf("%s, %v, want %s", got, err, want)
	}
}
