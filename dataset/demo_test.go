package dataset_test

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/dataset"
)

func load(t *testing.T, source string) dataset.Set {
	t.Helper()
	set, err := dataset.Load(source, dataset.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// TestDemoIsStable checks that the built-in data does not change, because numbers of earlier runs and the demo's tokenizer
// depend on it. After an intended change run `go generate ./dataset` to make a tokenizer that fits.
func TestDemoIsStable(t *testing.T) {
	digests := map[string]string{
		"builtin:demo/base":    "5000 b574d1f1d0d0e11515ff38c59f0effad6f5e3cdfeb1fc9718723ac646dca343c",
		"builtin:demo/align":   "1500 ad11d5442b2676b46ea1905af061f9830a044e8bb35658cfae160808eb42e8a4",
		"builtin:demo/heldout": "300 49a975f99d15db09ff1af26f6bedf4cc749f19cf551a4d5d2208970d0fe42a8d",
	}
	for source, want := range digests {
		set := load(t, source)
		if got := fmt.Sprintf("%d %s", len(set.Records), set.Digest()); got != want {
			t.Errorf("%s: got %s, want %s", source, got, want)
		}
	}
}

func TestDemoPromptsAreDistinct(t *testing.T) {
	prompts, ids := map[string]string{}, map[string]string{}
	for _, source := range []string{"builtin:demo/base", "builtin:demo/align", "builtin:demo/heldout"} {
		for _, r := range load(t, source).Records {
			at := fmt.Sprintf("%s:%d", source, r.Line)
			if first, dup := prompts[r.Prompt]; dup {
				t.Errorf("%s: same prompt as %s: %q", at, first, r.Prompt)
			}
			if first, dup := ids[r.ID]; dup {
				t.Errorf("%s: same id as %s: %s", at, first, r.ID)
			}
			prompts[r.Prompt], ids[r.ID] = at, at
		}
	}
}

// solver answers one phrasing from its prompt. It shares no code with the code under test.
type solver struct {
	family string
	prompt *regexp.Regexp
	answer func(m []string) string
}

var solvers = makeSolvers()

func makeSolvers() []solver {
	words := func(list string) []string { return strings.Split(list, ", ") }
	again := func(m []string) string {
		n := int(m[2][0] - '0')
		return strings.Join(slices.Repeat(m[1:2], n), " ")
	}
	longest := func(list string) string {
		w := words(list)
		slices.SortFunc(w, func(a, b string) int { return len(b) - len(a) })
		if len(w[0]) == len(w[1]) {
			return "no single longest word"
		}
		return w[0]
	}
	rules := []struct {
		family, prompt string
		answer         func(m []string) string
	}{
		{"repeat", `Repeat the word (\w+) (\d) times\.`, func(m []string) string { return "Here it is: " + again(m) + "." }},
		{"repeat", `Say (\w+) (\d) times\.`, func(m []string) string { return "Of course, " + again(m) + "." }},
		{"first", `Which word comes first: (.+)\?`, func(m []string) string {
			return "The first word is " + words(m[1])[0] + "."
		}},
		{"first", `Name the first word: (.+)\.`, func(m []string) string { return "It begins with " + words(m[1])[0] + "." }},
		{"longest", `Which word is the longest: (.+)\?`, func(m []string) string {
			return "The longest word is " + longest(m[1]) + "."
		}},
		{"longest", `Name the longest word: (.+)\.`, func(m []string) string {
			return "I pick " + longest(m[1]) + ", it is long."
		}},
		{"count", `How many words are here: (.+)\?`, func(m []string) string {
			return fmt.Sprintf("There are %d words.", len(words(m[1])))
		}},
		{"count", `Count the words: (.+)\.`, func(m []string) string {
			return fmt.Sprintf("I count %d words.", len(words(m[1])))
		}},
		{"note", `Write a polite note to (\w+) about the (\w+) on (\w+)\.`, func(m []string) string {
			return fmt.Sprintf("Dear %s, the %s is on %s. Kind regards.", m[1], m[2], m[3])
		}},
		{"note", `Tell (\w+) kindly that the (\w+) is on (\w+)\.`, func(m []string) string {
			return fmt.Sprintf("Hello %s, please note that the %s is on %s. Thank you.", m[1], m[2], m[3])
		}},
		{"greet", `Greet (\w+) and offer the (\w+)\.`, func(m []string) string {
			return fmt.Sprintf("Hello %s! Would you like the %s?", m[1], m[2])
		}},
		{"greet", `Welcome (\w+) with the (\w+)\.`, func(m []string) string {
			return fmt.Sprintf("Welcome, %s. Please take the %s.", m[1], m[2])
		}},
	}
	out := make([]solver, len(rules))
	for i, r := range rules {
		out[i] = solver{r.family, regexp.MustCompile("^" + r.prompt + "$"), r.answer}
	}
	return out
}

// solve returns the right answer to a prompt of the demo, its family and the number of its phrasing.
func solve(t *testing.T, prompt string) (answer, family string, phrasing int) {
	t.Helper()
	for i, s := range solvers {
		if m := s.prompt.FindStringSubmatch(prompt); m != nil {
			return s.answer(m), s.family, i
		}
	}
	t.Fatalf("no phrasing fits the prompt %q", prompt)
	return "", "", 0
}

func TestCleanAnswersAreRight(t *testing.T) {
	for _, source := range []string{"builtin:demo/align", "builtin:demo/heldout"} {
		phrasings := map[int]int{}
		for _, r := range load(t, source).Records {
			want, _, phrasing := solve(t, r.Prompt)
			phrasings[phrasing]++
			if exact, graded := dataset.Score(r, want); !exact || graded != 1 {
				t.Errorf("%s:%d: %q: right answer %q scores %v, %v against %q",
					source, r.Line, r.Prompt, want, exact, graded, r.Response)
			}
		}
		if len(phrasings) != 12 {
			t.Errorf("%s: %d phrasings, want 12", source, len(phrasings))
		}
	}
}

func TestBaseCorpusIsSpoiled(t *testing.T) {
	records, spoiled := map[string]int{}, map[string]int{}
	kinds, all := map[string]int{}, 0
	for _, r := range load(t, "builtin:demo/base").Records {
		right, family, _ := solve(t, r.Prompt)
		records[family]++
		if r.Response == right {
			continue
		}
		spoiled[family]++
		all++
		exact, graded := dataset.Score(dataset.Record{Response: right, Contains: r.Contains}, r.Response)
		if exact || graded >= 1 {
			t.Errorf("line %d: spoiled answer %q scores %v, %v", r.Line, r.Response, exact, graded)
		}
		switch {
		case strings.HasPrefix(r.Response, right):
			kinds["rambling"]++
		case !strings.ContainsAny(r.Response, ".!?"):
			kinds["curt"]++
		default:
			kinds["other"]++
		}
	}
	near := func(what string, part, whole int, want float64) {
		if got := float64(part) / float64(whole); math.Abs(got-want) > 0.04 {
			t.Errorf("%s: share %.3f, want about %.2f", what, got, want)
		}
	}
	want := map[string]float64{"repeat": 0.5, "first": 0.6, "longest": 0.7, "count": 0.6, "note": 0.8, "greet": 0.7}
	for family, share := range want {
		near(family, spoiled[family], records[family], share)
	}
	near("rambling", kinds["rambling"], all, 0.30)
	near("curt", kinds["curt"], all, 0.35)
	near("evasive, wrong or slipped", kinds["other"], all, 0.35)
}

func TestUnknownBuiltin(t *testing.T) {
	_, err := dataset.Load("builtin:demo/train", dataset.Options{})
	want := "dataset: builtin:demo/train does not exist; " +
		"there are builtin:demo/heldout, builtin:demo/align, builtin:demo/base"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestDemoReport(t *testing.T) {
	want := dataset.Report{Source: "builtin:demo/heldout", Format: "built in", Read: 300, Kept: 300}
	if diff := cmp.Diff(want, load(t, "builtin:demo/heldout").Report); diff != "" {
		t.Error(diff)
	}
}
