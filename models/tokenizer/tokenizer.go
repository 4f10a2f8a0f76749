package tokenizer

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/daulet/tokenizers"
)

// Tokenizer is a loaded tokenizer with its chat template. Its methods may be called from several goroutines; Close
// comes last.
type Tokenizer struct {
	library     *tokenizers.Tokenizer
	size        int
	special     map[string]int64
	eos         []int64
	nul         map[int64][]int64
	bytes       map[int64]bool // see Stream
	skipped     map[int64]bool
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

// FromFS reads the tokenizer from files that are named as in a Hugging Face folder (see Files). Errors wrap
// ErrNoTokenizer or ErrFormat and name the file. A chat template that cannot be compiled is told by Render and
// NewFormat, not here: a run may do without it.
func FromFS(files fs.FS) (*Tokenizer, error) {
	f, err := readFolder(files)
	if err != nil {
		return nil, err
	}
	library, err := tokenizers.FromBytes(f.library)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrFormat, tokenizerFile, err)
	}
	t := &Tokenizer{
		library: library, size: int(f.size), special: map[string]int64{}, bytes: f.bytes, skipped: f.skipped,
	}
	for name, text := range f.special {
		t.special[name] = f.vocab[text]
	}
	if id, ok := t.special["eos_token"]; ok {
		t.eos = append(t.eos, id)
	}
	for _, id := range f.stop {
		if !slices.Contains(t.eos, id) {
			t.eos = append(t.eos, id)
		}
	}
	if len(t.eos) == 0 {
		return nil, errors.Join(library.Close(), fmt.Errorf(
			"%w: there is no end-of-sequence token: eos_token in %s or eos_token_id in %s is needed",
			ErrFormat, configFile, generationFile))
	}
	t.nul = t.nulTokens(f.vocab)
	t.templateErr = fmt.Errorf("%w: the tokenizer has none", ErrTemplate)
	if f.template != "" {
		t.hasTemplate = true
		t.template, t.templateErr = compileTemplate(f.template, f.special)
	}
	return t, nil
}

// Close frees the library's memory. No method may be called after it.
func (t *Tokenizer) Close() error { return t.library.Close() }

// Encode gives the ids of text. With addSpecial the tokenizer's post-processor adds its own (a BOS, say); a special
// token written out in text becomes its id either way. ErrEncode if there are no ids for a text that is not blank.
func (t *Tokenizer) Encode(text string, addSpecial bool) ([]int64, error) {
	text = strings.ReplaceAll(text, "\x00", "\uFFFD")
	// The library reports a failure as no ids at all. (An option is given because Encode copies the tokens' texts as
	// well.)
	ids := t.library.EncodeWithOptions(text, addSpecial).IDs
	if len(ids) == 0 && strings.TrimSpace(text) != "" {
		return nil, fmt.Errorf("%w: no tokens for %q", ErrEncode, short(text))
	}
	list := make([]int64, len(ids))
	for i, id := range ids {
		list[i] = int64(id)
	}
	return list, nil
}

// Decode gives the text of ids, without the special tokens if skipSpecial. An id outside the vocabulary has no text.
func (t *Tokenizer) Decode(ids []int64, skipSpecial bool) string {
	list := make([]uint32, 0, len(ids))
	for _, id := range ids {
		if id < 0 || id > math.MaxUint32 {
			continue
		}
		if others, ok := t.nul[id]; ok {
			for _, other := range others {
				list = append(list, uint32(other))
			}
			continue
		}
		list = append(list, uint32(id))
	}
	return t.library.Decode(list, skipSpecial)
}

// Vocab is the greatest id + 1: the rows that an embedding needs.
func (t *Tokenizer) Vocab() int { return t.size }

// BOS is the begin-of-sequence id; false where there is none.
func (t *Tokenizer) BOS() (int64, bool) {
	id, ok := t.special["bos_token"]
	return id, ok
}

// EOS lists the ids that end a sequence, at least one: the tokenizer's eos_token first, which is the one that a
// response ends with, then those of generation_config.json (or, where that names none, of config.json).
func (t *Tokenizer) EOS() []int64 { return slices.Clone(t.eos) }

// PAD is the padding id: pad_token, or the first of EOS where there is none. Padding is always masked, so its id
// reaches no result.
func (t *Tokenizer) PAD() int64 {
	if id, ok := t.special["pad_token"]; ok {
		return id
	}
	return t.eos[0]
}

// HasTemplate tells whether the tokenizer has a chat template, be it one that can be used or not.
func (t *Tokenizer) HasTemplate() bool { return t.hasTemplate }

// Render gives a conversation as the chat template writes it, with addGenerationPrompt up to where the assistant
// begins. ErrTemplate if there is no template, gonja cannot compile it, or it refuses the conversation.
func (t *Tokenizer) Render(messages []Message, addGenerationPrompt bool) (string, error) {
	if t.templateErr != nil {
		return "", t.templateErr
	}
	return t.template.render(messages, addGenerationPrompt)
}

// Lead is what the chat template writes between a prompt and the content of its answer, where that is blank: a sampled
// answer begins with it, the content of a turn does not. Empty where there is nothing of the kind.
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

// nulTokens maps each token whose text has a NUL, which the library cannot return, to tokens of the same text with a
// byte FF instead, which decodes to U+FFFD.
func (t *Tokenizer) nulTokens(vocab map[string]int64) map[int64][]int64 {
	const byteLevelNUL, byteLevelFF = "\u0100", "\u00ff" // how byte-level vocabularies write the bytes 00 and FF
	nul := map[int64][]int64{}
	for token, id := range vocab {
		if token != "<0x00>" && !strings.Contains(token, byteLevelNUL) {
			continue
		}
		if t.library.Decode([]uint32{uint32(id)}, false) != "" {
			continue // the letter itself, in a vocabulary that is not byte-level
		}
		replacement := []int64{} // dropped where the vocabulary has no such tokens
		if token == "<0x00>" {
			if other, ok := vocab["<0xFF>"]; ok {
				replacement = append(replacement, other)
			}
		} else {
			for _, r := range strings.ReplaceAll(token, byteLevelNUL, byteLevelFF) {
				if other, ok := vocab[string(r)]; ok {
					replacement = append(replacement, other)
				}
			}
		}
		nul[id] = replacement
	}
	return nul
}
