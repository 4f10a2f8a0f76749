package tokenizer_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ldalign/ldalign/models/tokenizer"
)

func TestStopStrings(t *testing.T) {
	for name, test := range map[string]struct {
		stops  []string
		pieces []string
		want   string // the pieces shown, the last by Flush
		found  string
	}{
		"none":              {nil, []string{"a", "b"}, "a|b|", ""},
		"within a piece":    {[]string{"\n\n"}, []string{"a\n\nb", "c"}, "a||", "\n\n"},
		"over pieces":       {[]string{"User:"}, []string{"a", " Us", "er", ":x"}, "a| |||", "User:"},
		"not after all":     {[]string{"User:"}, []string{"a U", "s", "ual"}, "a ||Usual|", ""},
		"held to the end":   {[]string{"User:"}, []string{"a Us", "er"}, "a ||User", ""},
		"begins again":      {[]string{"aab"}, []string{"a", "a", "a", "b"}, "||a||", "aab"},
		"first complete":    {[]string{"abcd", "c"}, []string{"xab", "cd"}, "x|ab|", "c"},
		"longest at an end": {[]string{"c", "bc"}, []string{"a", "bc"}, "a||", "bc"},
		"at once":           {[]string{"ab"}, []string{"ab"}, "|", "ab"},
		"several bytes":     {[]string{"。終"}, []string{"文。", "終わり"}, "文||", "。終"},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := tokenizer.NewStopMatcher(test.stops...)
			if err != nil {
				t.Fatal(err)
			}
			var shown []string
			stopped := false
			for _, piece := range test.pieces {
				var show string
				show, stopped = m.Push(piece)
				shown = append(shown, show)
			}
			shown = append(shown, m.Flush())
			if got := strings.Join(shown, "|"); got != test.want || m.Stopped() != test.found || stopped != (test.found != "") {
				t.Errorf("%q, stopped %v by %q; want %q, %q", got, stopped, m.Stopped(), test.want, test.found)
			}
		})
	}
	if _, err := tokenizer.NewStopMatcher("a", ""); err == nil {
		t.Error("an empty stop string is taken")
	}
}

// However the text is cut, the result is that of reading it byte by byte.
func TestStopStringsAnyPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		stops := rapid.SliceOfN(rapid.StringMatching("[ab]{1,4}"), 0, 3).Draw(t, "stops")
		text := rapid.StringMatching("[abc]{0,20}").Draw(t, "text")
		want, found := text, ""
		for end := 0; end <= len(text) && found == ""; end++ {
			for _, stop := range stops {
				if strings.HasSuffix(text[:end], stop) && len(stop) > len(found) {
					want, found = text[:end-len(stop)], stop
				}
			}
		}
		m, err := tokenizer.NewStopMatcher(stops...)
		if err != nil {
			t.Fatal(err)
		}
		shown := ""
		for text != "" {
			n := rapid.IntRange(1, len(text)).Draw(t, "piece")
			show, stopped := m.Push(text[:n])
			shown += show
			text = text[n:]
			if stopped != (m.Stopped() != "") {
				t.Fatalf("stopped %v, %q", stopped, m.Stopped())
			}
		}
		if shown += m.Flush(); shown != want || m.Stopped() != found {
			t.Fatalf("%q, %q; want %q, %q", shown, m.Stopped(), want, found)
		}
	})
}
