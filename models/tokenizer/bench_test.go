package tokenizer_test

import (
	"strings"
	"testing"

	"github.com/ldalign/ldalign/models/tokenizer"
)

// texts are prompts of several lengths.
func benchTexts() []string {
	sentence := "The quick brown fox 😀 jumps over 13 lazy dogs; naïve façade, isn't it?\n"
	var texts []string
	for i := range 64 {
		texts = append(texts, strings.Repeat(sentence, 1+i%16))
	}
	return texts
}

func BenchmarkEncode(b *testing.B) {
	for _, name := range []string{"llama3", "llama", "unigram"} {
		b.Run(name, func(b *testing.B) {
			tok := load(b, name)
			texts := benchTexts()
			bytes, tokens := 0, 0
			for b.Loop() {
				for _, text := range texts {
					ids, err := tok.Encode(text, true)
					if err != nil {
						b.Fatal(err)
					}
					bytes, tokens = bytes+len(text), tokens+len(ids)
				}
			}
			b.ReportMetric(float64(bytes)/1e6/b.Elapsed().Seconds(), "MB/s")
			b.ReportMetric(float64(tokens)/1e3/b.Elapsed().Seconds(), "ktoken/s")
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	tok := load(b, "llama3")
	ids, err := tok.Encode(strings.Join(benchTexts(), ""), false)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		tok.Decode(ids, true)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(ids)), "ns/token")
}

func BenchmarkRender(b *testing.B) {
	tok := load(b, "llama3")
	turns := []tokenizer.Message{{Role: "user", Content: "What is the first word of the list?"}, {Role: "assistant", Content: "It is apple."}}
	for b.Loop() {
		if _, err := tok.Render(turns, true); err != nil {
			b.Fatal(err)
		}
	}
}
