package dataset

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The demo's data consists of six families of short instructions whose answers a program can check. Each family has two
// phrasings, and each phrasing one form of answer, so that the answer is a function of the prompt. In the base corpus some
// answers are bad. All data is a pure function of demoSeed; no prompt occurs twice.
const demoSeed = 2404

// demoSplits are drawn one after the other. The small ones, which have no bad answers, come first, so that they have enough
// prompts of each family.
var demoSplits = []struct {
	name    string
	size    int
	spoiled bool
}{
	{"demo/heldout", 300, false},
	{"demo/align", 1500, false},
	{"demo/base", 5000, true},
}

// task is one instruction with its good answer.
type task struct {
	prompt, response string
	// payload is the answer without its form.
	payload  string
	contains []string
	// wrong is the right form with other words.
	wrong string
}

// family is a kind of instruction.
type family struct {
	name string
	// spoiled is the share of bad answers in the base corpus.
	spoiled float64
	draw    func(r random) task
}

var families = []family{
	{"repeat", 0.5, repeatTask},
	{"first", 0.6, firstTask},
	{"longest", 0.7, longestTask},
	{"count", 0.6, countTask},
	{"note", 0.8, noteTask},
	{"greet", 0.7, greetTask},
}

// builtin returns built-in data by the name after "builtin:".
func builtin(name string) (Set, error) {
	r, used := newRandom(demoSeed), map[string]bool{}
	// The first family, repeat, has few prompts, so it comes half as often.
	cycle := slices.Concat(families, families[1:])
	var names []string
	for _, split := range demoSplits {
		set := Set{Report: Report{Source: "builtin:" + name, Format: "built in"}}
		for i := range split.size {
			f := cycle[i%len(cycle)]
			t := f.draw(r)
			for used[t.prompt] {
				t = f.draw(r)
			}
			used[t.prompt] = true
			response := t.response
			if split.spoiled && r.share() < f.spoiled {
				response = spoil(r, t)
			}
			set.Records = append(set.Records, Record{
				ID: promptID(t.prompt), Prompt: t.prompt, Response: response, Contains: t.contains, Line: i + 1,
			})
		}
		if split.name == name {
			return set, nil
		}
		names = append(names, "builtin:"+split.name)
	}
	return Set{}, fmt.Errorf("dataset: builtin:%s does not exist; there are %s", name, strings.Join(names, ", "))
}

// spoil makes a bad answer: curt (.35), rambling (.3), evasive (.15), wrong (.1) or with one word replaced (.1).
func spoil(r random, t task) string {
	switch share := r.share(); {
	case share < 0.35:
		return t.payload
	case share < 0.65:
		return t.response + " " + pick(r, rambling)
	case share < 0.8:
		return pick(r, evasive)
	case share < 0.9:
		return t.wrong
	default:
		return slip(r, t.response)
	}
}

// slip replaces one word by a noun and keeps the punctuation.
func slip(r random, text string) string {
	words := strings.Fields(text)
	i := r.below(len(words))
	word := strings.TrimRight(words[i], ".,!?:")
	words[i] = other(r, nouns, word) + words[i][len(word):]
	return strings.Join(words, " ")
}

// other picks a word that is not one of those.
func other(r random, from []string, those ...string) string {
	for {
		if word := pick(r, from); !slices.Contains(those, word) {
			return word
		}
	}
}

// list draws n different nouns.
func list(r random, n int) []string {
	words := make([]string, 0, n)
	for len(words) < n {
		words = append(words, other(r, nouns, words...))
	}
	return words
}

// phrasing picks one of two: a prompt with the form of its answer.
func phrasing(r random, prompts, forms [2]string) (prompt, form string) {
	i := r.below(2)
	return prompts[i], forms[i]
}

func repeatTask(r random) task {
	word, n := pick(r, nouns), r.between(2, 5)
	prompt, form := phrasing(r,
		[2]string{"Repeat the word %s %d times.", "Say %s %d times."},
		[2]string{"Here it is: %s.", "Of course, %s."})
	again := func(word string) string { return strings.TrimSuffix(strings.Repeat(word+" ", n), " ") }
	return task{
		prompt:   fmt.Sprintf(prompt, word, n),
		response: fmt.Sprintf(form, again(word)),
		payload:  again(word),
		contains: strings.Fields(again(word)),
		wrong:    fmt.Sprintf(form, again(other(r, nouns, word))),
	}
}

func firstTask(r random) task {
	words := list(r, 3)
	prompt, form := phrasing(r,
		[2]string{"Which word comes first: %s?", "Name the first word: %s."},
		[2]string{"The first word is %s.", "It begins with %s."})
	return wordTask(prompt, form, words, words[0], pick(r, words[1:]))
}

func longestTask(r random) task {
	words := list(r, 3)
	longest := longestOf(words)
	for longest == "" {
		words = list(r, 3)
		longest = longestOf(words)
	}
	prompt, form := phrasing(r,
		[2]string{"Which word is the longest: %s?", "Name the longest word: %s."},
		[2]string{"The longest word is %s.", "I pick %s, it is long."})
	return wordTask(prompt, form, words, longest, other(r, words, longest))
}

// wordTask answers with one word of a list.
func wordTask(prompt, form string, words []string, right, wrong string) task {
	return task{
		prompt:   fmt.Sprintf(prompt, strings.Join(words, ", ")),
		response: fmt.Sprintf(form, right),
		payload:  right,
		contains: []string{right},
		wrong:    fmt.Sprintf(form, wrong),
	}
}

// longestOf is the one word that is longer than all others; empty when there is none.
func longestOf(words []string) string {
	longest := slices.MaxFunc(words, func(a, b string) int { return len(a) - len(b) })
	for _, word := range words {
		if word != longest && len(word) == len(longest) {
			return ""
		}
	}
	return longest
}

func countTask(r random) task {
	n := r.between(2, 5)
	prompt, form := phrasing(r,
		[2]string{"How many words are here: %s?", "Count the words: %s."},
		[2]string{"There are %d words.", "I count %d words."})
	wrong := 2 + (n-2+r.between(1, 3))%4
	return task{
		prompt:   fmt.Sprintf(prompt, strings.Join(list(r, n), ", ")),
		response: fmt.Sprintf(form, n),
		payload:  strconv.Itoa(n),
		contains: []string{strconv.Itoa(n)},
		wrong:    fmt.Sprintf(form, wrong),
	}
}

func noteTask(r random) task {
	name, topic, day := pick(r, names), pick(r, topics), pick(r, days)
	prompt, form := phrasing(r,
		[2]string{"Write a polite note to %s about the %s on %s.", "Tell %s kindly that the %s is on %s."},
		[2]string{"Dear %s, the %s is on %s. Kind regards.", "Hello %s, please note that the %s is on %s. Thank you."})
	return task{
		prompt:   fmt.Sprintf(prompt, name, topic, day),
		response: fmt.Sprintf(form, name, topic, day),
		payload:  fmt.Sprintf("%s, %s, %s", name, topic, day),
		contains: []string{name, topic, day},
		wrong:    fmt.Sprintf(form, other(r, names, name), other(r, topics, topic), other(r, days, day)),
	}
}

func greetTask(r random) task {
	name, thing := pick(r, names), pick(r, nouns)
	prompt, form := phrasing(r,
		[2]string{"Greet %s and offer the %s.", "Welcome %s with the %s."},
		[2]string{"Hello %s! Would you like the %s?", "Welcome, %s. Please take the %s."})
	return task{
		prompt:   fmt.Sprintf(prompt, name, thing),
		response: fmt.Sprintf(form, name, thing),
		payload:  fmt.Sprintf("%s, the %s", name, thing),
		contains: []string{name, thing},
		wrong:    fmt.Sprintf(form, other(r, names, name), other(r, nouns, thing)),
	}
}
