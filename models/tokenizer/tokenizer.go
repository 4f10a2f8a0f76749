package tokenizer

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
	"strings"
)

// Tokenizer is a loaded tokenizer with its chat template. Its methods may be called from several goroutines, but not after
// Close.
type Tokenizer struct {
	library     *library
	special     map[string]int64
	eos         []int64
	hasTemplate bool
	template    *chatTemplate
	templateErr error // why template is nil
}

// Load reads the tokenizer of a Hugging Face folder.
func Load(dir string) (*Tokenizer, error) {
	t, err := FromFS(os.DirFS(dir))
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", dir, err)
	}
	return t, nil
}

// FromFS reads the tokenizer from files that are named as in a Hugging Face folder (see Files). Errors wrap ErrNoTokenizer or
// ErrFormat and name the file. FromFS does not fail for a chat template that cannot be compiled, because a run may not need it;
// Render and NewFormat do.
func FromFS(files fs.FS) (*Tokenizer, error) {
	file, err := fs.ReadFile(files, tokenizerFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: only fast tokenizers are supported; make one with transformers: "+
			"AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)", ErrNoTokenizer)
	}
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	l, err := newLibrary(file)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrFormat, tokenizerFile, err)
	}
	t, err := fromFolder(files, l)
	if err != nil {
		return nil, errors.Join(err, l.close())
	}
	return t, nil
}

// fromFolder returns the tokenizer of the library and the other files.
func fromFolder(files fs.FS, l *library) (*Tokenizer, error) {
	f, err := readFolder(files, l)
	if err != nil {
		return nil, err
	}
	t := &Tokenizer{library: l, special: f.ids}
	if id, ok := t.special["eos_token"]; ok {
		t.eos = append(t.eos, id)
	}
	for _, id := range f.stop {
		if !slices.Contains(t.eos, id) {
			t.eos = append(t.eos, id)
		}
	}
	if len(t.eos) == 0 {
		return nil, fmt.Errorf("%w: there is no end-of-sequence token: eos_token in %s or eos_token_id in %s is needed",
			ErrFormat, configFile, generationFile)
	}
	t.templateErr = fmt.Errorf("%w: the tokenizer has none", ErrTemplate)
	if f.template != "" {
		t.hasTemplate = true
		t.template, t.templateErr = compileTemplate(f.template, f.special)
	}
	return t, nil
}

// Close frees the library's memory. No method may be called after Close.
func (t *Tokenizer) Close() error {
	var err error
	if t.template != nil {
		err = t.template.compiled.close()
	}
	return errors.Join(err, t.library.close())
}

// Encode returns the ids of text. With addSpecial the tokenizer's post-processor adds its special tokens (a BOS, for example). A
// special token written out in text becomes its id in any case. The error wraps ErrEncode if a text that is not blank has no ids.
func (t *Tokenizer) Encode(text string, addSpecial bool) ([]int64, error) {
	ids, err := t.library.encode(text, addSpecial)
	if err != nil {
		return nil, fmt.Errorf("%w: %q: %w", ErrEncode, short(text), err)
	}
	if len(ids) == 0 && strings.TrimSpace(text) != "" {
		return nil, fmt.Errorf("%w: no tokens for %q", ErrEncode, short(text))
	}
	return ids, nil
}

// Decode returns the text of ids, without special tokens if skipSpecial. An id outside the vocabulary has no text. If the
// library fails, the text is one U+FFFD; FromFS has tried each id alone.
func (t *Tokenizer) Decode(ids []int64, skipSpecial bool) string {
	list := make([]uint32, 0, len(ids))
	for _, id := range ids {
		if id >= 0 && id <= math.MaxUint32 {
			list = append(list, uint32(id))
		}
	}
	text, err := t.library.decode(list, skipSpecial)
	if err != nil {
		return unknown
	}
	return text
}

// Vocab returns the greatest id + 1, which is the number of rows that an embedding needs.
func (t *Tokenizer) Vocab() int { return int(t.library.size) }

// BOS returns the id of the begin-of-sequence token; false if there is none.
func (t *Tokenizer) BOS() (int64, bool) {
	id, ok := t.special["bos_token"]
	return id, ok
}

// EOS returns the ids that end a sequence, at least one. The first is the tokenizer's eos_token, with which a response ends.
// Those of generation_config.json follow, or of config.json if it has none.
func (t *Tokenizer) EOS() []int64 { return slices.Clone(t.eos) }

// PAD returns the padding id: that of pad_token, or the first of EOS if there is none. Padding is always masked, so its id does
// not affect results.
func (t *Tokenizer) PAD() int64 {
	if id, ok := t.special["pad_token"]; ok {
		return id
	}
	return t.eos[0]
}

// HasTemplate reports whether the tokenizer has a chat template, even one that cannot be compiled.
func (t *Tokenizer) HasTemplate() bool { return t.hasTemplate }

// Render returns a conversation as the chat template writes it; with addGenerationPrompt, up to where the assistant's turn
// begins. The error wraps ErrTemplate if there is no template, it cannot be compiled, or it refuses the conversation.
func (t *Tokenizer) Render(messages []Message, addGenerationPrompt bool) (string, error) {
	if t.templateErr != nil {
		return "", t.templateErr
	}
	return t.template.render(messages, addGenerationPrompt)
}

// Lead returns the white space that the chat template writes between a prompt and the content of its answer. A sampled answer
// begins with it; the content of a turn does not. It is empty if the template writes nothing or other text there.
func (t *Tokenizer) Lead() string {
	const answer = "answer"
	turns := []Message{{Role: "user", Content: "question"}, {Role: "assistant", Content: answer}}
	prompt, err := t.Render(turns[:1], true)
	if err != nil {
		return ""
	}
	whole, err := t.Render(turns, false)
	if err != nil {
		return ""
	}
	rest, begins := strings.CutPrefix(whole, prompt)
	lead, _, found := strings.Cut(rest, answer)
	if !begins || !found || strings.TrimSpace(lead) != "" {
		return ""
	}
	return lead
}
