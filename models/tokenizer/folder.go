package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
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

// folder is what the files beside tokenizer.json say.
type folder struct {
	library  *library
	special  map[string]string // bos_token, eos_token, ... to the token's text
	ids      map[string]int64  // and to its id
	stop     []int64           // end-of-sequence ids of generation_config.json or config.json
	template string            // source of the chat template, empty for none
}

func readFolder(files fs.FS, l *library) (*folder, error) {
	f := &folder{library: l, special: map[string]string{}, ids: map[string]int64{}}
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
	if !json.Valid(text) {
		text = quoteNotNumbers(text)
	}
	if err := json.Unmarshal(text, v); err != nil {
		return false, fmt.Errorf("%w: %s: %w", ErrFormat, name, err)
	}
	return true, nil
}

// notNumbers matches NaN and Infinity, which Python writes and JSON does not have, and also JSON's strings, which may hold
// the same words.
var notNumbers = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|-?\bInfinity\b|\bNaN\b`)

// quoteNotNumbers makes strings of NaN and Infinity, so that they are errors only for keys that are read as numbers.
func quoteNotNumbers(text []byte) []byte {
	return notNumbers.ReplaceAllFunc(text, func(found []byte) []byte {
		if found[0] == '"' {
			return found
		}
		return slices.Concat([]byte(`"`), found, []byte(`"`))
	})
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
			delete(f.ids, name)
			continue
		}
		id, found, err := f.library.id(*text)
		if err != nil {
			return fmt.Errorf("%w: %s: %s: %w", ErrFormat, file, name, err)
		}
		if !found {
			return fmt.Errorf("%w: %s: %s %q is not in the vocabulary of %s", ErrFormat, file, name, *text, tokenizerFile)
		}
		f.special[name], f.ids[name] = *text, id
	}
	return nil
}

// readTemplate takes chat_template.jinja, or else chat_template of tokenizer_config.json: a text, or several by their
// names, of which "default" counts.
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
	if len(value) == 0 || bytes.Equal(value, []byte("null")) {
		return nil
	}
	named := map[string]string{}
	switch value[0] {
	case '[': // of objects with name and template
		var list []struct{ Name, Template string }
		err = json.Unmarshal(value, &list)
		for _, t := range list {
			named[t.Name] = t.Template
		}
	case '{':
		err = json.Unmarshal(value, &named)
	default:
		var text string
		err = json.Unmarshal(value, &text)
		named["default"] = text
	}
	if err != nil {
		return fmt.Errorf("%w: %s: chat_template: %w", ErrFormat, configFile, err)
	}
	template, ok := named["default"]
	if !ok {
		return fmt.Errorf("%w: %s: chat_template: none of the %d templates is named default",
			ErrFormat, configFile, len(named))
	}
	f.template = template
	return nil
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
		if id < 0 || id >= f.library.size {
			return fmt.Errorf("%w: %s: eos_token_id %d is not in the vocabulary of %d", ErrFormat, file, id, f.library.size)
		}
	}
	f.stop = ids
	return nil
}
