package tokenizer_test

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/models/tokenizer"
)

// goldens is what testdata/make_goldens.py recorded from transformers.
type goldens struct {
	Templates map[string]string
	Chats     [][]tokenizer.Message
	Renders   []struct {
		Template string
		Chat     int
		Generate bool
		Text     string
	}
	Tokenizers map[string]struct {
		Vocab int
		BOS   *int64
		EOS   int64
		Texts []struct {
			Text    string
			Special bool
			IDs     []int64
			Decoded string
			Skipped string
		}
		Chats []struct {
			Chat     int
			Generate bool
			Text     string
			IDs      []int64
		}
		Pairs []struct {
			Prompt, Response string
			PromptIDs        []int64 `json:"prompt_ids"`
			ResponseIDs      []int64 `json:"response_ids"`
		}
	}
}

func readGoldens(t testing.TB) goldens {
	t.Helper()
	text, err := os.ReadFile("testdata/goldens.json")
	if err != nil {
		t.Fatal(err)
	}
	var g goldens
	if err := json.Unmarshal(text, &g); err != nil {
		t.Fatal(err)
	}
	if len(g.Renders) == 0 || len(g.Tokenizers) < 10 {
		t.Fatal("goldens.json is incomplete")
	}
	return g
}

func load(t testing.TB, dir string) *tokenizer.Tokenizer {
	t.Helper()
	return closing(t)(tokenizer.Load(filepath.Join("testdata", dir)))
}

func closing(t testing.TB) func(*tokenizer.Tokenizer, error) *tokenizer.Tokenizer {
	return func(tok *tokenizer.Tokenizer, err error) *tokenizer.Tokenizer {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := tok.Close(); err != nil {
				t.Error(err)
			}
		})
		return tok
	}
}

// folder copies a golden folder into memory, to be changed.
func folder(t testing.TB, dir string) fstest.MapFS {
	t.Helper()
	files := fstest.MapFS{}
	root := os.DirFS(filepath.Join("testdata", dir))
	entries, err := fs.ReadDir(root, ".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		text, err := fs.ReadFile(root, e.Name())
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = &fstest.MapFile{Data: text}
	}
	return files
}

func TestEncodeAndDecodeAsTransformers(t *testing.T) {
	for name, want := range readGoldens(t).Tokenizers {
		t.Run(name, func(t *testing.T) {
			tok := load(t, name)
			if tok.Vocab() != want.Vocab {
				t.Errorf("vocabulary of %d, want %d", tok.Vocab(), want.Vocab)
			}
			for _, w := range want.Texts {
				ids, err := tok.Encode(w.Text, w.Special)
				if err != nil {
					t.Errorf("%q: %v", w.Text, err)
					continue
				}
				if diff := cmp.Diff(w.IDs, ids); diff != "" {
					t.Errorf("%q (special %v): %s", w.Text, w.Special, diff)
				}
				if got := tok.Decode(w.IDs, false); got != w.Decoded {
					t.Errorf("decoded %q, want %q", got, w.Decoded)
				}
				if got := tok.Decode(w.IDs, true); got != w.Skipped {
					t.Errorf("decoded without special tokens %q, want %q", got, w.Skipped)
				}
			}
		})
	}
}

func TestRenderAsTransformers(t *testing.T) {
	g := readGoldens(t)
	for name, template := range g.Templates {
		t.Run(name, func(t *testing.T) {
			files := folder(t, "llama") // its special tokens are <s> and </s>, as in the goldens
			files["chat_template.jinja"] = &fstest.MapFile{Data: []byte(template)}
			tok := closing(t)(tokenizer.FromFS(files))
			for _, want := range g.Renders {
				if want.Template != name {
					continue
				}
				got, err := tok.Render(g.Chats[want.Chat], want.Generate)
				if err != nil {
					t.Errorf("chat %d: %v", want.Chat, err)
				} else if got != want.Text {
					t.Errorf("chat %d, generation prompt %v:\n got %q\nwant %q", want.Chat, want.Generate, got, want.Text)
				}
			}
		})
	}
}

func TestChatsAsTransformers(t *testing.T) {
	g := readGoldens(t)
	for name, want := range g.Tokenizers {
		t.Run(name, func(t *testing.T) {
			tok := load(t, name)
			for _, w := range want.Chats {
				text, err := tok.Render(g.Chats[w.Chat], w.Generate)
				if err != nil {
					t.Fatal(err)
				}
				if text != w.Text {
					t.Errorf("chat %d:\n got %q\nwant %q", w.Chat, text, w.Text)
				}
				ids, err := tok.Encode(text, false)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(w.IDs, ids); diff != "" {
					t.Errorf("chat %d: %s", w.Chat, diff)
				}
			}
			if len(want.Pairs) == 0 {
				return
			}
			format, err := tokenizer.NewFormat(tok, tokenizer.FormatOptions{Template: "auto"})
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range want.Pairs {
				prompt, response, err := format.Pair(w.Prompt, w.Response)
				if err != nil {
					t.Errorf("%q: %v", w.Prompt, err)
					continue
				}
				if diff := cmp.Diff(w.PromptIDs, prompt); diff != "" {
					t.Errorf("prompt %q: %s", w.Prompt, diff)
				}
				if diff := cmp.Diff(w.ResponseIDs, response); diff != "" {
					t.Errorf("response %q: %s", w.Response, diff)
				}
			}
		})
	}
}

func TestSpecialTokens(t *testing.T) {
	for name, want := range map[string]struct {
		bos int64
		eos []int64
		pad int64
	}{
		"gpt2":   {0, []int64{0}, 0},
		"llama":  {1, []int64{2}, 2},    // no pad_token: EOS; eos_token_id of config.json
		"chatml": {1, []int64{2}, 0},    // neither config has an id
		"llama3": {0, []int64{4, 1}, 4}, // eos_token first; the list of generation_config.json hides config.json's
	} {
		tok := load(t, name)
		if bos, ok := tok.BOS(); !ok || bos != want.bos {
			t.Errorf("%s: BOS %d, %v, want %d", name, bos, ok, want.bos)
		}
		if diff := cmp.Diff(want.eos, tok.EOS()); diff != "" {
			t.Errorf("%s: EOS: %s", name, diff)
		}
		if tok.PAD() != want.pad {
			t.Errorf("%s: PAD %d, want %d", name, tok.PAD(), want.pad)
		}
	}
	files := folder(t, "llama")
	files["tokenizer_config.json"] = &fstest.MapFile{Data: []byte(`{"bos_token": null}`)}
	files["special_tokens_map.json"] = &fstest.MapFile{Data: []byte(`{"bos_token":"<s>","eos_token":{"content":"</s>"}}`)}
	tok := closing(t)(tokenizer.FromFS(files))
	if bos, ok := tok.BOS(); ok {
		t.Errorf("tokenizer_config.json overrides special_tokens_map.json, but BOS is %d", bos)
	}
	if diff := cmp.Diff([]int64{2}, tok.EOS()); diff != "" {
		t.Error(diff)
	}
}

func TestLoadTellsWhatIsWrong(t *testing.T) {
	for name, test := range map[string]struct {
		file, text string
		want       error
		says       string
	}{
		"no tokenizer.json": {"tokenizer.json", "", tokenizer.ErrNoTokenizer, "save_pretrained"},
		"broken tokenizer":  {"tokenizer.json", `{"model":`, tokenizer.ErrFormat, "tokenizer.json"},
		"no vocabulary":     {"tokenizer.json", `{"model":{}}`, tokenizer.ErrFormat, "Model"},
		"unknown model": {
			"tokenizer.json", `{"model":{"type":"X","vocab":{"</s>":2,"<s>":1,"<unk>":0}}}`,
			tokenizer.ErrFormat, "tokenizer.json",
		},
		"negative id":          {"tokenizer.json", `{"model":{"vocab":{"a":-1}}}`, tokenizer.ErrFormat, "column"},
		"odd unigram":          {"tokenizer.json", `{"model":{"vocab":[[]]}}`, tokenizer.ErrFormat, "column"},
		"not UTF-8":            {"tokenizer.json", "{\"model\":\"\xff\"}", tokenizer.ErrFormat, "unicode"},
		"broken config":        {"tokenizer_config.json", `[]`, tokenizer.ErrFormat, "tokenizer_config.json"},
		"EOS of no vocabulary": {"tokenizer_config.json", `{"eos_token":"<eos>"}`, tokenizer.ErrFormat, `"<eos>"`},
		"odd EOS":              {"tokenizer_config.json", `{"eos_token":7}`, tokenizer.ErrFormat, "eos_token"},
		"odd EOS id":           {"config.json", `{"eos_token_id":"x"}`, tokenizer.ErrFormat, "config.json"},
		"EOS id past the end":  {"generation_config.json", `{"eos_token_id":[2,420]}`, tokenizer.ErrFormat, "420"},
		"odd template": {
			"tokenizer_config.json", `{"eos_token":"</s>","chat_template":1}`,
			tokenizer.ErrFormat, "chat_template",
		},
		"no default template": {
			"tokenizer_config.json", `{"chat_template":[{"name":"x","template":""}]}`,
			tokenizer.ErrFormat, "default",
		},
		"no default template by name": {
			"tokenizer_config.json", `{"eos_token":"</s>","chat_template":{"x":""}}`,
			tokenizer.ErrFormat, "default",
		},
		"odd template by name": {
			"tokenizer_config.json", `{"eos_token":"</s>","chat_template":{"default":1}}`,
			tokenizer.ErrFormat, "chat_template",
		},
		"not a number": {"generation_config.json", `{"eos_token_id": NaN}`, tokenizer.ErrFormat, "eos_token_id"},
	} {
		t.Run(name, func(t *testing.T) {
			files := folder(t, "llama")
			if test.text == "" {
				delete(files, test.file)
			} else {
				files[test.file] = &fstest.MapFile{Data: []byte(test.text)}
			}
			tok, err := tokenizer.FromFS(files)
			if err == nil {
				tok.Close()
				t.Fatal("loaded")
			}
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %q, want %v that says %q", err, test.want, test.says)
			}
		})
	}
	files := folder(t, "llama")
	maps.DeleteFunc(files, func(name string, _ *fstest.MapFile) bool { return name != "tokenizer.json" })
	if _, err := tokenizer.FromFS(files); !errors.Is(err, tokenizer.ErrFormat) ||
		!strings.Contains(err.Error(), "end-of-sequence") {
		t.Errorf("no EOS anywhere: %v", err)
	}
	if _, err := tokenizer.Load("testdata/nobody"); !errors.Is(err, tokenizer.ErrNoTokenizer) ||
		!strings.Contains(err.Error(), "testdata/nobody") {
		t.Errorf("no folder: %v", err)
	}
}

// No tokenizer.json ends the process: whatever the library fails on is an error of FromFS.
func TestOddFiles(t *testing.T) {
	type object = map[string]any
	deep := any(object{})
	for range 200 {
		deep = object{"type": "Sequence", "decoders": []any{deep}}
	}
	for name, test := range map[string]struct {
		key   string
		value any
		says  string // "" for what the library takes
	}{
		"NUL":                {"version", "1\x00", "version"},
		"list":               {"normalizer", []any{""}, ""},
		"list in a sequence": {"normalizer", object{"type": "Sequence", "normalizers": []any{[]any{""}}}, ""},
		"empty prefix":       {"normalizer", object{"type": "Prepend", "prepend": ""}, ""},
		"replace nothing": {
			"normalizer", object{"type": "Replace", "pattern": object{"String": ""}, "content": "x"}, "",
		},
		"replace a boundary": {
			"normalizer", object{"type": "Replace", "pattern": object{"Regex": `\b`}, "content": "x"}, "",
		},
		"charsmap of zeros": {
			"normalizer", object{"type": "Precompiled", "precompiled_charsmap": "AAAA"}, "precompiled_charsmap",
		},
		"charsmap beyond its end": {
			"normalizer", object{"type": "Precompiled", "precompiled_charsmap": charsmap(256, 77, "x\x00")}, "byte index 77",
		},
		"short trie": {
			"normalizer", object{"type": "Precompiled", "precompiled_charsmap": charsmap(98, 0, "x\x00")}, "98",
		},
		"strip at the end": {
			"decoder", object{"type": "Strip", "content": " ", "start": 0, "stop": 1}, "",
		},
		"deep": {"decoder", deep, "recursion limit"},
		"special token that is not defined": {"post_processor", object{
			"type": "TemplateProcessing", "single": []any{object{"SpecialToken": object{"id": "<s>", "type_id": 0}}},
			"pair": []any{}, "special_tokens": object{},
		}, "template.rs"},
		"second text": {"post_processor", object{
			"type": "TemplateProcessing", "single": []any{object{"Sequence": object{"id": "B", "type_id": 0}}},
			"pair": []any{}, "special_tokens": object{},
		}, "template.rs"},
		"id of no vocabulary": {"post_processor", object{
			"type": "BertProcessing", "sep": []any{"</s>", 2}, "cls": []any{"<s>", 4000},
		}, "4000"},
		"merge of no vocabulary": {"model.merges", []any{[]any{"a\x00", "b"}}, "out of vocabulary"},
		"odd merge":              {"model.merges", []any{"a b c"}, "Merges"},
		"long prefix":            {"model.continuing_subword_prefix", "####", "model.rs"},
		"random tokens":          {"model.dropout", 0.1, "dropout"},
	} {
		t.Run(name, func(t *testing.T) {
			files := folder(t, "llama")
			var file object
			if err := json.Unmarshal(files["tokenizer.json"].Data, &file); err != nil {
				t.Fatal(err)
			}
			part := file
			key, inModel := strings.CutPrefix(test.key, "model.")
			if inModel {
				part = file["model"].(object)
			}
			part[key] = test.value
			text, err := json.Marshal(file)
			if err != nil {
				t.Fatal(err)
			}
			files["tokenizer.json"] = &fstest.MapFile{Data: text}
			tok, err := tokenizer.FromFS(files)
			if test.says != "" {
				if !errors.Is(err, tokenizer.ErrFormat) || !strings.Contains(err.Error(), test.says) {
					t.Errorf("error %v, want one that says %q", err, test.says)
				}
				return
			}
			closing(t)(tok, err)
			if ids, err := tok.Encode(" the dog 1 ", true); err != nil || tok.Decode(ids, false) == "" {
				t.Errorf("%v, %v", ids, err)
			}
		})
	}
}

// charsmap is SentencePiece's table with a trie of so many units, in which the letter a is replaced by what stands at
// the given place of the replacements.
func charsmap(units, at uint32, replacements string) string {
	trie := make([]uint32, units)
	trie['a'] = 'a' | 1<<8 | ('a'^1)<<10 // the unit of a has a leaf, which is unit 1
	trie[1] = at | 1<<31
	blob := binary.LittleEndian.AppendUint32(nil, 4*units)
	for _, u := range trie {
		blob = binary.LittleEndian.AppendUint32(blob, u)
	}
	return base64.StdEncoding.EncodeToString(append(blob, replacements...))
}

func TestCharsmap(t *testing.T) {
	files := folder(t, "gpt2")
	text := string(files["tokenizer.json"].Data)
	if !strings.Contains(text, `"normalizer":null`) {
		t.Fatal("the golden tokenizer has a normalizer")
	}
	files["tokenizer.json"] = &fstest.MapFile{Data: []byte(strings.Replace(text, `"normalizer":null`,
		`"normalizer":{"type":"Precompiled","precompiled_charsmap":"`+charsmap(512, 2, "x\x00the\x00")+`"}`, 1))}
	tok := closing(t)(tokenizer.FromFS(files))
	ids, err := tok.Encode("a dog", false)
	if err != nil {
		t.Fatal(err)
	}
	if got := tok.Decode(ids, false); got != "the dog" {
		t.Errorf("%q", got)
	}
}

// NUL is a character like another, and what is not UTF-8 is U+FFFD.
func TestNULAndBrokenText(t *testing.T) {
	for _, name := range []string{"gpt2", "llama", "chatml", "llama3"} {
		tok := load(t, name)
		for text, want := range map[string]string{"a\x00b.": "a\x00b.", "\x00": "\x00", "a \xff.": "a \uFFFD.", "\xc3": "\uFFFD"} {
			ids, err := tok.Encode(text, false)
			if err != nil {
				t.Fatal(err)
			}
			if got := tok.Decode(ids, false); got != want {
				t.Errorf("%s: %q became %q, want %q", name, text, got, want)
			}
		}
	}
}

func TestDecodeIDsOfNoVocabulary(t *testing.T) {
	tok := load(t, "gpt2")
	if got := tok.Decode([]int64{-1, 1 << 40, 400, 1 << 31}, false); got != "" {
		t.Errorf("decoded %q", got)
	}
	if got := tok.Decode(nil, false); got != "" {
		t.Errorf("decoded %q", got)
	}
}

func TestFormats(t *testing.T) {
	tok := load(t, "gpt2") // no chat template
	encode := func(text string) []int64 {
		t.Helper()
		ids, err := tok.Encode(text, false)
		if err != nil {
			t.Fatal(err)
		}
		return ids
	}
	eos := tok.EOS()[0]
	const instruction = "### Instruction: {prompt}\n\n### Response: "
	for name, test := range map[string]struct {
		template, prompt, response string
		before, after              []int64
	}{
		"raw":         {"raw", "What is", " the list", encode("What is"), append(encode(" the list"), eos)},
		"auto is raw": {"auto", "What is", " the list", encode("What is"), append(encode(" the list"), eos)},
		"instruction": {
			instruction, "What is", "The list",
			encode("### Instruction: What is\n\n### Response: "), append(encode("The list"), eos),
		},
		// "Response: " and "The" would be tokenised as "Response:", " The": the prompt's ids hold, and so does the
		// text.
		"merged space": {"{prompt} ", "the", "dog", encode("the "), append(encode("dog"), eos)},
		"merged word":  {"raw", "the qui", "ck brown", encode("the qui"), append(encode("ck brown"), eos)},
		"no response":  {"raw", "What is", "", encode("What is"), []int64{eos}},
	} {
		t.Run(name, func(t *testing.T) {
			format, err := tokenizer.NewFormat(tok, tokenizer.FormatOptions{Template: test.template})
			if err != nil {
				t.Fatal(err)
			}
			before, after, err := format.Pair(test.prompt, test.response)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.before, before); diff != "" {
				t.Errorf("prompt: %s", diff)
			}
			if diff := cmp.Diff(test.after, after); diff != "" {
				t.Errorf("response: %s", diff)
			}
		})
	}
}

func TestFormatRefuses(t *testing.T) {
	plain, chat := load(t, "gpt2"), load(t, "chatml")
	files := folder(t, "chatml")
	files["chat_template.jinja"] = &fstest.MapFile{Data: []byte("{% if %}")}
	broken := closing(t)(tokenizer.FromFS(files))
	for name, test := range map[string]struct {
		tok     *tokenizer.Tokenizer
		options tokenizer.FormatOptions
	}{
		"no chat template":        {plain, tokenizer.FormatOptions{Template: "chat"}},
		"no placeholder":          {plain, tokenizer.FormatOptions{Template: "instruction"}},
		"two placeholders":        {plain, tokenizer.FormatOptions{Template: "{prompt}{prompt}"}},
		"system without chat":     {plain, tokenizer.FormatOptions{System: "Be kind."}},
		"broken chat template":    {broken, tokenizer.FormatOptions{Template: "chat"}},
		"broken template by auto": {broken, tokenizer.FormatOptions{Template: "auto"}},
	} {
		if _, err := tokenizer.NewFormat(test.tok, test.options); !errors.Is(err, tokenizer.ErrTemplate) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := tokenizer.NewFormat(broken, tokenizer.FormatOptions{Template: "raw"}); err != nil {
		t.Errorf("raw needs no chat template: %v", err)
	}

	format, err := tokenizer.NewFormat(chat, tokenizer.FormatOptions{Template: "chat"})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := format.Pair("hello", "one<|im_end|>two"); !errors.Is(err, tokenizer.ErrEncode) {
		t.Errorf("EOS within the response: %v", err)
	}
	raw, err := tokenizer.NewFormat(plain, tokenizer.FormatOptions{Template: "raw"})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := raw.Pair("", "one"); !errors.Is(err, tokenizer.ErrEncode) {
		t.Errorf("empty prompt: %v", err)
	}

	// A word piece on its own would get a space of its own in this vocabulary: no ids say the same text.
	sentencePiece, err := tokenizer.NewFormat(load(t, "llama"), tokenizer.FormatOptions{Template: "raw"})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := sentencePiece.Pair("the d", "og sleeps"); !errors.Is(err, tokenizer.ErrNotPrefix) {
		t.Errorf("merged over the boundary: %v", err)
	}

	files["chat_template.jinja"] = &fstest.MapFile{Data: []byte("{{ messages | length }}{{ messages[0].content }}")}
	rewriting, err := tokenizer.NewFormat(closing(t)(tokenizer.FromFS(files)), tokenizer.FormatOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := rewriting.Pair("hello", "there"); !errors.Is(err, tokenizer.ErrNotPrefix) {
		t.Errorf("template that rewrites the prompt: %v", err)
	}
}

func TestSystemMessage(t *testing.T) {
	format, err := tokenizer.NewFormat(load(t, "chatml"), tokenizer.FormatOptions{System: "Be kind."})
	if err != nil {
		t.Fatal(err)
	}
	text, err := format.Text("Hi")
	want := "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
	if err != nil || text != want {
		t.Errorf("%q (%v), want %q", text, err, want)
	}
}

func TestFit(t *testing.T) {
	format, err := tokenizer.NewFormat(load(t, "gpt2"), tokenizer.FormatOptions{Template: "raw"})
	if err != nil {
		t.Fatal(err)
	}
	const x, y = "What is the first word of the list: apple, pear?", " The first word is apple."
	p, r, err := format.Pair(x, y)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := format.Fit(x, y, tokenizer.Limits{Prompt: len(p), Response: len(r), Reject: true})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(tokenizer.Tokens{Prompt: p, Response: r}, whole); diff != "" {
		t.Error(diff)
	}
	cut, err := format.Fit(x, y, tokenizer.Limits{Prompt: 3, Response: 2})
	if err != nil {
		t.Fatal(err)
	}
	want := tokenizer.Tokens{Prompt: p[len(p)-3:], Response: r[:2], Cut: len(p) + len(r) - 5}
	if diff := cmp.Diff(want, cut); diff != "" {
		t.Error(diff)
	}
	_, err = format.Fit(x, y, tokenizer.Limits{Prompt: 3, Response: 2, Reject: true})
	if !errors.Is(err, tokenizer.ErrTooLong) {
		t.Error(err)
	}
	for _, empty := range [][2]string{{"", y}, {x, ""}} {
		_, err := format.Fit(empty[0], empty[1], tokenizer.Limits{Prompt: 9, Response: 9})
		if !errors.Is(err, tokenizer.ErrEmpty) {
			t.Error(err)
		}
	}
}

// Templates are not trusted: each of these ends with an error in bounded time and memory.
func TestHostileTemplates(t *testing.T) {
	nested := func(begin, end string, n int) string { return strings.Repeat(begin, n) + "1" + strings.Repeat(end, n) }
	grow := func(what string) string {
		return "{% set ns = namespace(x='a', l=[1]) %}{% for i in range(99999) %}" + what + "{% endfor %}{{ ns.x }}{{ ns.l }}"
	}
	for name, test := range map[string]struct{ template, says string }{
		"unclosed tag":         {"a\n{{ 'b", "line 2"},
		"unclosed comment":     {"{# a", "comment"},
		"unfinished raw":       {"{% raw %} {{ a", "raw"},
		"unknown block":        {"{% include '/etc/passwd' %}", "include"},
		"half a conditional":   {"{{ (1 if) }}{{ [if] }}{{ ('a' if 1 else) }}", "line 1"},
		"raised":               {"{{ raise_exception('no such role') }}", "no such role"},
		"raised in a macro":    {"{% macro a() %}{{ raise_exception('no such role') }}{% endmacro %}{{ a() }}", "no such role"},
		"attribute of none":    {"{{ tools.a.b }}", "undefined"},
		"call of a text":       {"{{ 'a'() }}", ""},
		"order of text":        {"{{ messages[0].role < 1 }}", "string and number"},
		"loop over none":       {"{% for t in tools %}{% endfor %}", "none"},
		"change of a list":     {"{% do messages.append(1) %}", "append"},
		"endless macro":        {"{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "recursion"},
		"macro of macros":      {"{% macro a(n) %}{{ a(n) ~ a(n) }}{% endmacro %}{{ a(1) }}", "recursion"},
		"endless loop":         {"{% for x in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}", "recursion"},
		"endless range":        {"{% for i in range(10 ** 9) %}{{ i }}{% endfor %}", "range"},
		"loops in loops":       {nested("{% for i in range(99999) %}", "{% endfor %}", 3), "steps"},
		"long text":            {"{{ 'a' * 10 ** 11 }}", "steps"},
		"text of texts":        {"{{ ('a' * 10 ** 7) * 100 }}", "steps"},
		"long list":            {"{{ (messages * 10 ** 8) | length }}", "steps"},
		"long tuple":           {"{{ (1,) * 10 ** 8 }}", "steps"},
		"text doubled":         {grow("{% set ns.x = ns.x ~ ns.x %}"), "steps"},
		"text doubled by +":    {grow("{% set ns.x = ns.x + ns.x %}"), "steps"},
		"list doubled":         {grow("{% set ns.l = ns.l + ns.l %}"), "steps"},
		"list nested":          {grow("{% set ns.l = [ns.l] %}"), "levels"},
		"list nested twice":    {grow("{% set ns.l = [ns.l, ns.l] %}"), "steps"},
		"filters nested":       {grow("{% set ns.l = ns.l | map('string') | list | chain(ns.l) %}"), "steps"},
		"itself":               {grow("{% set ns.l = ns %}"), "namespace"},
		"replaced":             {"{{ ('a' * 10 ** 6).replace('a', 'b' * 10 ** 6) }}", "steps"},
		"joined":               {"{{ ('x' * 10 ** 6).join('a' * 10 ** 6) }}", "steps"},
		"split":                {"{{ ('a ' * 10 ** 8).split() | length }}", "steps"},
		"indented":             {"{{ ('a\n' * 10 ** 6) | indent(10 ** 9) }}", "steps"},
		"padded":               {"{{ 'x'.ljust(10 ** 11) }}", "limit"},
		"centred":              {"{{ 'x' | center(10 ** 11) }}", "limit"},
		"wide number":          {"{{ '%1000000000d' % 1 }}", "width"},
		"wide format":          {"{{ '{:1000000000}'.format(1) }}", "width"},
		"batch":                {"{{ [1] | batch(10 ** 9, 'x') | list | length }}", ""},
		"JSON of separators":   {"{{ ([1] * 10 ** 5) | tojson(separators=('x' * 10 ** 6, ':')) }}", "steps"},
		"a great number":       {"{{ 10 ** 10 ** 10 }}", "unable"},
		"much output":          {"{% for i in range(90000) %}{{ 'a' * 1000 }}{% endfor %}", "output"},
		"long source":          {strings.Repeat("a", 1<<18), "limit"},
		"deep brackets":        {"{{ " + nested("(", ")", 1000) + "}}", ""},
		"deeper brackets":      {"{{ " + nested("[", "]", 30000) + "}}", "tokens in one tag"},
		"many signs":           {"{{ " + nested("-", "", 60000) + "}}", "tokens in one tag"},
		"many attributes":      {"{{ a" + strings.Repeat(".b", 50000) + "}}", "tokens in one tag"},
		"many filters":         {"{{ a" + strings.Repeat("|upper", 15000) + "}}", "tokens in one tag"},
		"blocks within blocks": {nested("{% if 1 %}", "{% endif %}", 5000), ""},
	} {
		t.Run(name, func(t *testing.T) {
			files := folder(t, "chatml")
			files["chat_template.jinja"] = &fstest.MapFile{Data: []byte(test.template)}
			tok := closing(t)(tokenizer.FromFS(files))
			text, err := tok.Render([]tokenizer.Message{{Role: "user", Content: "Hi"}}, true)
			if !errors.Is(err, tokenizer.ErrTemplate) || text != "" || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%.100q, %v", text, err)
			}
			if err != nil && len(err.Error()) > 1000 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
}

func TestTemplatesByName(t *testing.T) {
	for name, config := range map[string]string{
		"list":   `{"eos_token":"</s>","chat_template":[{"name":"tool_use","template":"no"},{"name":"default","template":"yes"}]}`,
		"object": `{"eos_token":"</s>","chat_template":{"tool_use":"no","default":"yes"},"model_max_length":Infinity}`,
		"text":   `{"eos_token":"</s>","chat_template":"yes","x":[NaN, -Infinity, "NaN \" Infinity"]}`,
	} {
		files := folder(t, "llama")
		files["tokenizer_config.json"] = &fstest.MapFile{Data: []byte(config)}
		tok := closing(t)(tokenizer.FromFS(files))
		if text, err := tok.Render(nil, true); text != "yes" || err != nil {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
}

func TestLead(t *testing.T) {
	const user, end = "{{ '<user>' + messages[0].content }}", "{% if add_generation_prompt %}{{ '<bot>' }}{% endif %}"
	for name, test := range map[string]struct{ answer, want string }{
		"a space":              {"'<bot> ' + m.content", " "},
		"lines":                {`'<bot>\n\n' + m.content`, "\n\n"},
		"nothing":              {"'<bot>' + m.content", ""},
		"trimmed by it":        {"'<bot>' + m.content | trim", ""},
		"text that is no lead": {"'<bot> <think> ' + m.content", ""},
		"another prompt":       {"'<assistant> ' + m.content", ""},
		"no answer":            {"'<bot> '", ""},
		"refused":              {"raise_exception('no')", ""},
	} {
		t.Run(name, func(t *testing.T) {
			files := folder(t, "chatml")
			files["chat_template.jinja"] = &fstest.MapFile{
				Data: []byte(user + "{% for m in messages[1:] %}{{ " + test.answer + " }}{% endfor %}" + end),
			}
			tok := closing(t)(tokenizer.FromFS(files))
			if got := tok.Lead(); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

func TestFromManyGoroutines(t *testing.T) {
	g := readGoldens(t)
	tok := load(t, "llama3")
	want := g.Tokenizers["llama3"]
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for _, w := range want.Chats {
				text, err := tok.Render(g.Chats[w.Chat], w.Generate)
				if err != nil || text != w.Text {
					t.Errorf("%q, %v", text, err)
				}
				ids, err := tok.Encode(text, false)
				if err != nil || !slices.Equal(ids, w.IDs) {
					t.Errorf("%v, %v", ids, err)
				}
			}
		})
	}
	group.Wait()
}

func FuzzRender(f *testing.F) {
	for _, template := range readGoldens(f).Templates {
		f.Add(template, "user", " Hi {{ x }} {% if %} ")
	}
	text, err := os.ReadFile("testdata/constructs.json")
	if err != nil {
		f.Fatal(err)
	}
	var constructs []string
	if err := json.Unmarshal(text, &constructs); err != nil {
		f.Fatal(err)
	}
	for _, construct := range constructs {
		if !strings.HasPrefix(construct, "{") {
			construct = "{{ " + construct + " }}"
		}
		f.Add(construct, "user", "Hi")
	}
	files := folder(f, "chatml")
	delete(files, "chat_template.jinja")
	f.Fuzz(func(t *testing.T, template, role, content string) {
		changed := maps.Clone(files)
		changed["chat_template.jinja"] = &fstest.MapFile{Data: []byte(template)}
		tok, err := tokenizer.FromFS(changed)
		if err != nil {
			t.Fatal(err) // whatever the template, the tokenizer loads
		}
		defer tok.Close()
		_, err = tok.Render([]tokenizer.Message{{Role: role, Content: content}, {Role: "assistant", Content: role}}, true)
		if err != nil && !errors.Is(err, tokenizer.ErrTemplate) {
			t.Fatal(err)
		}
	})
}

func FuzzFromFS(f *testing.F) {
	for _, name := range []string{"llama3", "llama"} {
		files := folder(f, name)
		data := func(file string) []byte {
			if files[file] == nil {
				return nil
			}
			return files[file].Data
		}
		f.Add(data("tokenizer.json"), data("tokenizer_config.json"), data("generation_config.json"))
	}
	f.Add([]byte(`{"model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":[]}}`),
		[]byte(`{"eos_token":"a"}`), []byte(`{"eos_token_id":[0,1]}`))
	f.Fuzz(func(t *testing.T, library, config, generation []byte) {
		tok, err := tokenizer.FromFS(fstest.MapFS{
			"tokenizer.json":         &fstest.MapFile{Data: library},
			"tokenizer_config.json":  &fstest.MapFile{Data: config},
			"generation_config.json": &fstest.MapFile{Data: generation},
		})
		if err != nil {
			return
		}
		defer tok.Close()
		ids, err := tok.Encode("ab 1\n😀", true)
		if err != nil {
			return
		}
		for _, id := range ids {
			if id < 0 || id >= int64(tok.Vocab()) {
				t.Fatalf("id %d of a vocabulary of %d", id, tok.Vocab())
			}
		}
		tok.Decode(ids, true)
	})
}

// FuzzComponent puts a value into one place of a good tokenizer.json, where random bytes would rarely leave JSON.
func FuzzComponent(f *testing.F) {
	places := []string{
		"normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens", "version",
		"model.type", "model.vocab", "model.merges", "model.unk_token", "model.continuing_subword_prefix",
		"model.end_of_word_suffix", "model.byte_fallback", "model.unk_id",
	}
	for i, seed := range []string{
		`{"type":"Replace","pattern":{"String":" "},"content":"_"}`, `{"type":"Metaspace","replacement":"_"}`,
		`{"type":"BertProcessing","sep":["</s>",2],"cls":["<s>",1]}`, `{"type":"Strip","content":" ","start":1,"stop":0}`,
		`[{"id":0,"content":"<unk>","special":true}]`, `"1.0"`, `"Unigram"`, `[["a",-1],["b",-2.5]]`, `[["a","b"]]`, `"a"`,
		`"##"`, `"</w>"`, `true`, `0`,
	} {
		f.Add(uint8(i), []byte(seed))
	}
	f.Add(uint8(0), []byte(`{"type":"Precompiled","precompiled_charsmap":"`+charsmap(512, 0, "x\x00")+`"}`))
	f.Add(uint8(2), []byte(`{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"a","type_id":0}}],"pair":[],`+
		`"special_tokens":{"a":{"id":"a","ids":[1],"tokens":["a"]}}}`))
	var good map[string]json.RawMessage
	var model map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal(folder(f, "llama")["tokenizer.json"].Data, &good),
		json.Unmarshal(good["model"], &model)); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, place uint8, value []byte) {
		if !json.Valid(value) {
			return
		}
		file := maps.Clone(good)
		if key, inModel := strings.CutPrefix(places[int(place)%len(places)], "model."); inModel {
			inner := maps.Clone(model)
			inner[key] = value
			text, err := json.Marshal(inner)
			if err != nil {
				t.Fatal(err)
			}
			file["model"] = text
		} else {
			file[key] = value
		}
		text, err := json.Marshal(file)
		if err != nil {
			t.Fatal(err)
		}
		tok, err := tokenizer.FromFS(fstest.MapFS{
			"tokenizer.json":        &fstest.MapFile{Data: text},
			"tokenizer_config.json": &fstest.MapFile{Data: []byte(`{"eos_token":"</s>"}`)},
		})
		if err != nil {
			return
		}
		defer tok.Close()
		for _, special := range []bool{false, true} {
			ids, err := tok.Encode("ab 1\n the dog's 😀 <s>", special)
			if err != nil {
				continue
			}
			tok.Decode(ids, special)
		}
	})
}
