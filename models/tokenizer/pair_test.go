package tokenizer_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/models/tokenizer"
)

// pairFolder has the files that make_goldens.py of models/reward wrote with transformers.
const pairFolder = "../reward/testdata/v3"

func openPairs(t testing.TB) (*tokenizer.Tokenizer, *tokenizer.Pairs) {
	t.Helper()
	tok, err := tokenizer.Load(pairFolder)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tok.Close(); err != nil {
			t.Error(err)
		}
	})
	pairs, err := tokenizer.NewPairs(tok, os.DirFS(pairFolder))
	if err != nil {
		t.Fatal(err)
	}
	return tok, pairs
}

func TestPairsAreThoseOfTransformers(t *testing.T) {
	_, pairs := openPairs(t)
	data, err := os.ReadFile(filepath.Join(pairFolder, "pairs.json"))
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Cases []struct {
			First, Second string
			Most          int     `json:"max_tokens"`
			IDs           []int64 `json:"ids"`
			FirstTokens   int     `json:"first_tokens"`
			Cut           int
		}
	}
	if err := json.Unmarshal(data, &golden); err != nil {
		t.Fatal(err)
	}
	if len(golden.Cases) < 100 {
		t.Fatalf("only %d cases", len(golden.Cases))
	}
	cut := 0
	for _, c := range golden.Cases {
		got, err := pairs.Encode(c.First, c.Second, c.Most)
		if err != nil {
			t.Fatal(err)
		}
		want := tokenizer.PairTokens{IDs: c.IDs, First: c.FirstTokens, Cut: c.Cut}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q and %q in %d tokens (-transformers +here):\n%s", c.First, c.Second, c.Most, diff)
		}
		if c.Cut > 0 {
			cut++
		}
	}
	if cut < 50 {
		t.Errorf("only %d cases are truncated", cut)
	}
}

func TestTooLittleRoomForAPair(t *testing.T) {
	_, pairs := openPairs(t)
	if _, err := pairs.Encode("a", "b", pairs.Special()-1); !errors.Is(err, tokenizer.ErrTooLong) {
		t.Errorf("the error is %v", err)
	}
}

func TestPairsFromTheLeft(t *testing.T) {
	tok, pairs := openPairs(t)
	left, err := tokenizer.NewPairs(tok, withFile(t, "tokenizer_config.json", `{"truncation_side": "left"}`))
	if err != nil {
		t.Fatal(err)
	}
	const first, second = "the rain", "What is the capital of France?"
	whole, err := pairs.Encode(first, second, 0)
	if err != nil {
		t.Fatal(err)
	}
	got, err := left.Encode(first, second, len(whole.IDs)-2)
	if err != nil {
		t.Fatal(err)
	}
	want := append(append([]int64{}, whole.IDs[:whole.First]...), whole.IDs[whole.First+2:]...)
	if diff := cmp.Diff(want, got.IDs); diff != "" || got.Cut != 2 {
		t.Errorf("cut %d\n%s", got.Cut, diff)
	}
}

// withFile returns the golden folder with one file replaced.
func withFile(t *testing.T, name, text string) fstest.MapFS {
	t.Helper()
	files := fstest.MapFS{name: {Data: []byte(text)}}
	for _, other := range []string{"tokenizer.json", "tokenizer_config.json"} {
		if other == name {
			continue
		}
		data, err := os.ReadFile(filepath.Join(pairFolder, other))
		if err != nil {
			t.Fatal(err)
		}
		files[other] = &fstest.MapFile{Data: data}
	}
	return files
}

func TestBadPairTemplatesAreTold(t *testing.T) {
	tok, _ := openPairs(t)
	piece := func(kind, id, segment string) string {
		return `{"` + kind + `":{"id":"` + id + `","type_id":` + segment + `}}`
	}
	template := func(pieces ...string) string {
		return `{"post_processor":{"type":"TemplateProcessing","special_tokens":{"[SEP]":{"ids":[2]},"[X]":{"ids":[100000]}},` +
			`"pair":[` + strings.Join(pieces, ",") + `]}}`
	}
	a, b := piece("Sequence", "A", "0"), piece("Sequence", "B", "1")
	for name, c := range map[string]struct{ text, want string }{
		"none":            {`{}`, "post_processor"},
		"null":            {`{"post_processor":null}`, "TemplateProcessing"},
		"another":         {`{"post_processor":{"type":"ByteLevel"}}`, `"ByteLevel"`},
		"no pieces":       {template(), "0 texts"},
		"one text":        {template(a), "1 texts"},
		"the wrong order": {template(piece("Sequence", "B", "0"), piece("Sequence", "A", "1")), "A and then B"},
		"unknown text":    {template(a, piece("Sequence", "C", "1")), "A and then B"},
		"unknown token":   {template(a, piece("SpecialToken", "[CLS]", "0"), b), `"[CLS]" has no ids`},
		"id too great":    {template(a, piece("SpecialToken", "[X]", "0"), b), "100000"},
		"segment 2":       {template(a, piece("Sequence", "B", "2")), "segment 2"},
		"back to 0":       {template(piece("Sequence", "A", "1"), piece("Sequence", "B", "0")), "segment 0"},
		"an empty piece":  {template(a, `{}`, b), "piece 1"},
		"not JSON":        {`{`, "tokenizer.json"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tokenizer.NewPairs(tok, withFile(t, "tokenizer.json", c.text))
			if !errors.Is(err, tokenizer.ErrFormat) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %v, want one with %q", err, c.want)
			}
		})
	}
	_, err := tokenizer.NewPairs(tok, withFile(t, "tokenizer_config.json", `{"truncation_side": "middle"}`))
	if !errors.Is(err, tokenizer.ErrFormat) {
		t.Errorf("truncation_side: the error is %v", err)
	}
	if _, err := tokenizer.NewPairs(tok, fstest.MapFS{}); !errors.Is(err, tokenizer.ErrNoTokenizer) {
		t.Errorf("no file: the error is %v", err)
	}
}
