package guide_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/guide"
	"github.com/ldalign/ldalign/models/tokenizer"
)

// TestReaderTakesAnyResponse: a policy with another tokenizer can sample what ends a text for the guide's.
func TestReaderTakesAnyResponse(t *testing.T) {
	tok, err := tokenizer.Load("../tokenizer/testdata/gpt2")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := tok.Close(); err != nil {
			t.Error(err)
		}
	}()
	reader, err := guide.NewReader(tok, tokenizer.Limits{Prompt: 16, Response: 16}, 32)
	if err != nil {
		t.Fatal(err)
	}
	read := func(response string) models.Sequence {
		t.Helper()
		row, err := reader.Sequence(guide.Text{Prompt: "What is it?", Response: response})
		if err != nil {
			t.Fatalf("%q: %v", response, err)
		}
		return row
	}
	end := tok.Decode(tok.EOS()[:1], false)
	for response, like := range map[string]string{"A word." + end + " And more.": "A word.", end + "more": "", "": " "} {
		got := read(response)
		if n := len(got.Response()); n == 0 || got.Response()[n-1] != tok.EOS()[0] {
			t.Errorf("%q is read as %v", response, got.Response())
		}
		if like != "" && !slices.Equal(got.IDs, read(like).IDs) {
			t.Errorf("%q is read as %v, want %v as of %q", response, got.IDs, read(like).IDs, like)
		}
	}
	strict, err := tokenizer.NewFormat(tok, tokenizer.FormatOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := strict.Pair("What is it?", "A word."+end); !errors.Is(err, tokenizer.ErrEncode) {
		t.Errorf("a format that does not cut: %v, want ErrEncode", err)
	}
}
