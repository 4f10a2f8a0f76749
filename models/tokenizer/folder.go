package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"unicode/utf8"
)

// The files of a Hugging Face folder that this package reads. Only tokenizer.json is required.
const (
	tokenizerFile  = "tokenizer.json"
	configFile     = "tokenizer_config.json"
	specialFile    = "special_tokens_map.json"
	templateFile   = "chat_template.jinja"
	generationFile = "generation_config.json"
	modelFile      = "config.json"
)

// Files names what FromFS reads, in a fixed order: a checkpoint that keeps those that exist keeps the tokenizer.
func Files() []string {
	return []string{tokenizerFile, configFile, specialFile, templateFile, generationFile, modelFile}
}

// specialNames are the special tokens by their key in tokenizer_config.json, which is also their name in a chat
// template.
var specialNames = []string{"bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"}

// folder is what the files say, before the library has seen tokenizer.json.
type folder struct {
	library  []byte            // tokenizer.json, without truncation and padding
	vocab    map[string]int64  // every token's text to its id, as in tokenizer.json (byte-level text stays encoded)
	size     int64             // greatest id + 1
	bytes    map[int64]bool    // ids of byte tokens, where the decoder has byte fallback
	skipped  map[int64]bool    // ids of special tokens, which decoding may skip
	special  map[string]string // bos_token, eos_token, ... to the token's text
	stop     []int64           // end-of-sequence ids of generation_config.json or config.json
	template string            // source of the chat template, empty for none
}

func readFolder(files fs.FS) (*folder, error) {
	f := &folder{special: map[string]string{}}
	text, err := fs.ReadFile(files, tokenizerFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: only fast tokenizers are supported; make one with transformers: "+
			"AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)", ErrNoTokenizer)
	}
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	if err := f.readVocab(text); err != nil {
		return nil, err
	}
	// special_tokens_map.json first: tokenizer_config.json has the last word.
	for _, name := range []string{specialFile, configFile} {
		if err := f.readSpecial(files, name); err != nil {
			return nil, err
		}
	}
	if err := f.readTemplate(files); err != nil {
		return nil, err
	}
	// As transformers does: the model's config counts only where the generation config is silent.
	for _, name := range []string{generationFile, modelFile} {
		if len(f.stop) == 0 {
			if err := f.readStop(files, name); err != nil {
				return nil, err
			}
		}
	}
	return f, nil
}

// readJSON reads an optional file into v; found is false where there is none.
func readJSON(files fs.FS, name string, v any) (found bool, err error) {
	text, err := fs.ReadFile(files, name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("tokenizer: %w", err)
	}
	if err := json.Unmarshal(text, v); err != nil {
		return false, fmt.Errorf("%w: %s: %w", ErrFormat, name, err)
	}
	return true, nil
}

// readVocab takes the vocabulary from tokenizer.json, and truncation and padding out of it: a tokenizer saved with them
// would cut and fill every text in silence.
func (f *folder) readVocab(text []byte) error {
	if !utf8.Valid(text) { // encoding/json lets it through, the library aborts the process
		return fmt.Errorf("%w: %s is not UTF-8", ErrFormat, tokenizerFile)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrFormat, tokenizerFile, err)
	}
	var content struct {
		Model struct {
			Vocab json.RawMessage `json:"vocab"`
		} `json:"model"`
		AddedTokens []struct {
			ID      *int64 `json:"id"`
			Content string `json:"content"`
			Special bool   `json:"special"`
		} `json:"added_tokens"`
		Decoder json.RawMessage `json:"decoder"`
	}
	if err := json.Unmarshal(text, &content); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrFormat, tokenizerFile, err)
	}
	f.vocab, f.skipped = map[string]int64{}, map[int64]bool{}
	vocab := bytes.TrimSpace(content.Model.Vocab)
	switch {
	case len(vocab) > 0 && vocab[0] == '{': // BPE, WordPiece, WordLevel
		if err := json.Unmarshal(vocab, &f.vocab); err != nil {
			return fmt.Errorf("%w: %s: vocab: %w", ErrFormat, tokenizerFile, err)
		}
	case len(vocab) > 0 && vocab[0] == '[': // Unigram: pairs of token and score
		var list [][]any
		if err := json.Unmarshal(vocab, &list); err != nil {
			return fmt.Errorf("%w: %s: vocab: %w", ErrFormat, tokenizerFile, err)
		}
		for i, pair := range list {
			if err := checkUnigram(pair); err != nil {
				return fmt.Errorf("%w: %s: vocab: entry %d: %w", ErrFormat, tokenizerFile, i, err)
			}
			token, _ := pair[0].(string)
			f.vocab[token] = int64(i)
		}
	default:
		return fmt.Errorf("%w: %s: model.vocab is missing", ErrFormat, tokenizerFile)
	}
	for i, token := range content.AddedTokens {
		if token.ID == nil {
			return fmt.Errorf("%w: %s: added_tokens: entry %d has no id", ErrFormat, tokenizerFile, i)
		}
		f.vocab[token.Content] = *token.ID
		if token.Special {
			f.skipped[*token.ID] = true
		}
	}
	for token, id := range f.vocab {
		if id < 0 || id > math.MaxInt32 {
			return fmt.Errorf("%w: %s: token %q has id %d", ErrFormat, tokenizerFile, token, id)
		}
		f.size = max(f.size, id+1)
	}
	f.bytes = byteTokens(content.Decoder, f.vocab)
	f.library = text
	changed, err := f.checkFile(fields)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrFormat, tokenizerFile, err)
	}
	null := []byte("null")
	for _, key := range []string{"truncation", "padding"} {
		if value, ok := fields[key]; ok && !bytes.Equal(value, null) {
			fields[key] = null
			changed = true
		}
	}
	if changed {
		stripped, err := json.Marshal(fields)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrFormat, tokenizerFile, err)
		}
		f.library = stripped
	}
	return nil
}

// readSpecial takes the special tokens of one file, each a text or an object with its content.
func (f *folder) readSpecial(files fs.FS, file string) error {
	var fields map[string]json.RawMessage
	if _, err := readJSON(files, file, &fields); err != nil {
		return err
	}
	for _, name := range specialNames {
		value, ok := fields[name]
		if !ok {
			continue
		}
		var token *struct {
			Content string `json:"content"`
		}
		var text *string
		if json.Unmarshal(value, &text) != nil {
			if err := json.Unmarshal(value, &token); err != nil {
				return fmt.Errorf("%w: %s: %s: %w", ErrFormat, file, name, err)
			}
			text = &token.Content
		}
		if text == nil || *text == "" { // null: no such token
			delete(f.special, name)
			continue
		}
		if _, ok := f.vocab[*text]; !ok {
			return fmt.Errorf("%w: %s: %s %q is not in the vocabulary of %s", ErrFormat, file, name, *text, tokenizerFile)
		}
		f.special[name] = *text
	}
	return nil
}

// readTemplate takes chat_template.jinja, or else chat_template of tokenizer_config.json: a text, or a list of named
// ones of which "default" counts.
func (f *folder) readTemplate(files fs.FS) error {
	text, err := fs.ReadFile(files, templateFile)
	if err == nil {
		f.template = string(text)
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("tokenizer: %w", err)
	}
	var config struct {
		ChatTemplate json.RawMessage `json:"chat_template"`
	}
	if _, err := readJSON(files, configFile, &config); err != nil {
		return err
	}
	value := bytes.TrimSpace(config.ChatTemplate)
	if len(value) == 0 || value[0] != '[' {
		var single *string
		if len(value) > 0 {
			if err := json.Unmarshal(value, &single); err != nil {
				return fmt.Errorf("%w: %s: chat_template: %w", ErrFormat, configFile, err)
			}
		}
		if single != nil {
			f.template = *single
		}
		return nil
	}
	var named []struct {
		Name     string `json:"name"`
		Template string `json:"template"`
	}
	if err := json.Unmarshal(value, &named); err != nil {
		return fmt.Errorf("%w: %s: chat_template: %w", ErrFormat, configFile, err)
	}
	for _, t := range named {
		if t.Name == "default" {
			f.template = t.Template
			return nil
		}
	}
	return fmt.Errorf("%w: %s: chat_template: none of the %d templates is named default",
		ErrFormat, configFile, len(named))
}

// readStop takes eos_token_id of one file: an id, a list of ids, or null.
func (f *folder) readStop(files fs.FS, file string) error {
	var config struct {
		EOS json.RawMessage `json:"eos_token_id"`
	}
	if _, err := readJSON(files, file, &config); err != nil {
		return err
	}
	value := bytes.TrimSpace(config.EOS)
	if len(value) == 0 {
		return nil
	}
	var ids []int64
	if value[0] != '[' && !bytes.Equal(value, []byte("null")) {
		value = slices.Concat([]byte("["), value, []byte("]"))
	}
	if err := json.Unmarshal(value, &ids); err != nil {
		return fmt.Errorf("%w: %s: eos_token_id: %w", ErrFormat, file, err)
	}
	for _, id := range ids {
		if id < 0 || id >= f.size {
			return fmt.Errorf("%w: %s: eos_token_id %d is not in the vocabulary of %d", ErrFormat, file, id, f.size)
		}
	}
	f.stop = ids
	return nil
}
