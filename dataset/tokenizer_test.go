//go:build cgo

package dataset_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/dataset"
	"github.com/ldalign/ldalign/models/tokenizer"
)

// demoFormat opens the demo's tokenizer and its chat template.
func demoFormat(t *testing.T) (*tokenizer.Tokenizer, *tokenizer.Format) {
	t.Helper()
	tok, err := tokenizer.FromFS(dataset.DemoTokenizer())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tok.Close(); err != nil {
			t.Error(err)
		}
	})
	format, err := tokenizer.NewFormat(tok, tokenizer.FormatOptions{Template: "chat"})
	if err != nil {
		t.Fatal(err)
	}
	return tok, format
}

// TestDemoTokenizerAsTransformers: the ids are those of transformers 5.23.0 on the same folder.
func TestDemoTokenizerAsTransformers(t *testing.T) {
	tok, format := demoFormat(t)
	text, err := format.Text("Repeat the word axe 3 times.")
	if want := "<bos><user> Repeat the word axe 3 times.<assistant>"; err != nil || text != want {
		t.Errorf("got %q, %v, want %q", text, err, want)
	}
	prompt, response, err := format.Pair("Repeat the word axe 3 times.", "Here it is: axe axe axe.")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int64{1, 3, 494, 264, 268, 275, 92, 73, 225, 23, 392, 18, 4}, prompt); diff != "" {
		t.Errorf("prompt: -want +got:\n%s", diff)
	}
	want := []int64{303, 73, 270, 338, 273, 30, 275, 92, 73, 275, 92, 73, 275, 92, 73, 18, 2}
	if diff := cmp.Diff(want, response); diff != "" {
		t.Errorf("response: -want +got:\n%s", diff)
	}
	other, err := tok.Encode(" Zoë 2024 €\n", false)
	if err != nil {
		t.Fatal(err)
	}
	want = []int64{225, 62, 83, 132, 109, 225, 22, 20, 22, 24, 225, 163, 229, 110, 203}
	if diff := cmp.Diff(want, other); diff != "" {
		t.Errorf("other text: -want +got:\n%s", diff)
	}
	if bos, _ := tok.BOS(); tok.Vocab() != 512 || bos != 1 || tok.PAD() != 0 || !cmp.Equal(tok.EOS(), []int64{2}) {
		t.Errorf("vocabulary %d, bos %d, eos %v, pad %d", tok.Vocab(), bos, tok.EOS(), tok.PAD())
	}
}

// TestDemoIsShort: no prompt is longer than 48 tokens and no answer than 40, so that the demo's spec cuts nothing.
func TestDemoIsShort(t *testing.T) {
	tok, format := demoFormat(t)
	for _, source := range []string{"builtin:demo/base", "builtin:demo/align", "builtin:demo/heldout"} {
		for _, r := range load(t, source).Records {
			prompt, response, err := format.Pair(r.Prompt, r.Response)
			if err != nil {
				t.Fatalf("%s:%d: %v", source, r.Line, err)
			}
			if len(prompt) > 48 || len(response) > 40 {
				t.Errorf("%s:%d: %d and %d tokens", source, r.Line, len(prompt), len(response))
			}
			if got := tok.Decode(response, true); got != " "+r.Response {
				t.Errorf("%s:%d: %q reads back as %q", source, r.Line, r.Response, got)
			}
		}
	}
}
