package tokenizer_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/ldalign/ldalign/models/tokenizer"
)

// kinds are one tokenizer of each kind of decoder: byte-level, byte fallback with and without a leading space,
// Unigram with Metaspace, WordPiece, marks at the ends of words.
var kinds = []string{"gpt2", "chatml", "llama", "gemma", "unigram", "wordpiece", "wordends"}

// stream returns the pieces of ids and of the end.
func stream(t interface{ Fatalf(string, ...any) }, tok *tokenizer.Tokenizer, ids []int64, skip bool) []string {
	s := tok.Stream(skip)
	var pieces []string
	for _, id := range ids {
		pieces = append(pieces, s.Push(id))
	}
	pieces = append(pieces, s.Flush())
	for i, piece := range pieces {
		if !utf8.ValidString(piece) {
			t.Fatalf("piece %d of %v is not UTF-8: %q", i, ids, piece)
		}
	}
	if got, want := strings.Join(pieces, ""), tok.Decode(ids, skip); got != want {
		t.Fatalf("%v (skip %v):\n got %q\nwant %q", ids, skip, pieces, want)
	}
	return pieces
}

func TestStreamIsDecode(t *testing.T) {
	for _, name := range kinds {
		t.Run(name, func(t *testing.T) {
			tok := load(t, name)
			bytes := byteIDs(t, name)
			rapid.Check(t, func(t *rapid.T) {
				all := rapid.Int64Range(-1, int64(tok.Vocab())) // with one on either side
				special := rapid.Int64Range(0, 6)
				kinds := []*rapid.Generator[int64]{all, all, special}
				if len(bytes) > 0 {
					kinds = append(kinds, rapid.SampledFrom(bytes), rapid.SampledFrom(bytes))
				}
				ids := rapid.SliceOfN(rapid.OneOf(kinds...), 0, 60).Draw(t, "ids")
				stream(t, tok, ids, rapid.Bool().Draw(t, "skip"))
			})
		})
	}
}

// byteIDs are the tokens of single bytes, of which broken characters are made.
func byteIDs(t *testing.T, name string) []int64 {
	var file struct {
		Model struct{ Vocab json.RawMessage }
	}
	text, err := os.ReadFile(filepath.Join("testdata", name, "tokenizer.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	vocab := map[string]int64{}
	if json.Unmarshal(file.Model.Vocab, &vocab) != nil {
		return nil // Unigram's is a list
	}
	var ids []int64
	for token, id := range vocab {
		if strings.HasPrefix(token, "<0x") || utf8.RuneCountInString(token) == 1 && token > "\u007e" {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func TestStreamOfTexts(t *testing.T) {
	g := readGoldens(t)
	for name, want := range g.Tokenizers {
		tok := load(t, name)
		for _, w := range want.Texts {
			for _, skip := range []bool{false, true} {
				joined := strings.Join(stream(t, tok, w.IDs, skip), "")
				if whole := map[bool]string{false: w.Decoded, true: w.Skipped}[skip]; joined != whole {
					t.Errorf("%s: %q, transformers has %q", name, joined, whole)
				}
			}
		}
	}
}

// Push returns what can be shown at once, and holds back unfinished characters only.
func TestStreamShowsAtOnce(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"gpt2", "a dog 😀 ran", "a| dog| ||😀| |r|a|n|"},
		{"llama", "a dog 😀 ran", "a| |do|g ||||||😀 r|an|"},
		{"unigram", "the dog", "the| dog|"},
		{"wordpiece", "the dog, and", "the| dog|,| and|"},
	} {
		tok := load(t, test.name)
		ids, err := tok.Encode(test.text, false)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(stream(t, tok, ids, true), "|"); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

// A broken model may repeat half a character, a special token or a byte for ever.
func TestStreamOfTheSameToken(t *testing.T) {
	for _, name := range kinds {
		tok := load(t, name)
		for _, id := range append(byteIDs(t, name), 0, 1, 2, 3) {
			if id%16 == 0 || id < 4 {
				stream(t, tok, slices.Repeat([]int64{id}, 300), id%32 == 0)
			}
		}
	}
}

func TestStreamIsUsedAgain(t *testing.T) {
	tok := load(t, "llama")
	ids, err := tok.Encode("the dog", false)
	if err != nil {
		t.Fatal(err)
	}
	s := tok.Stream(true)
	for range 2 {
		text := ""
		for _, id := range ids {
			text += s.Push(id)
		}
		if text += s.Flush(); text != "the dog" {
			t.Errorf("%q", text)
		}
	}
}

func BenchmarkStream(b *testing.B) {
	tok := load(b, "llama3")
	ids, err := tok.Encode(strings.Repeat("The quick brown fox 😀 jumps. ", 100), false)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		s := tok.Stream(true)
		for _, id := range ids {
			s.Push(id)
		}
		s.Flush()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(ids)), "ns/token")
}
