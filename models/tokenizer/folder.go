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

// Files lists the files that FromFS reads, in a fixed order. A checkpoint with those that exist has the whole tokenizer.
func Files() []string {
	return []string{tokenizerFile, configFile, specialFile, templateFile, generationFile, modelFile}
}

// specialNames are the keys of the special tokens in tokenizer_config.json. A chat template uses the same names.
var specialNames = []string{"bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"}

// folder is the content of the files beside tokenizer.json.
type folder struct {
	library  *library
	special  map[string]string // bos_token, eos_token, ... to the token's text
	ids      map[string]int64  // and to its id
	stop     []int64           // end-of-sequence ids of generation_config.json or config.json
	template string            // source of the chat template, empty for none
}

func readFolder(files fs.FS, l *library) (*folder, error) {
	f := &folder{library: l, special: map[string]string{}, ids: map[string]int64{}}
	// tokenizer_config.json is read after special_tokens_map.json and overrides it.
	for _, name := range []string{specialFile, configFile} {
		if err := f.readSpecial(files, name); err != nil {
			return nil, err
		}
	}
	if err := f.readTemplate(files); err != nil {
		return nil, err
	}
	// As in transformers, the model's config is used only if the generation config has no such ids.
	for _, name := range []string{generationFile, modelFile} {
		if len(f.stop) == 0 {
			if err := f.readStop(files, name); err != nil {
				return nil, err
			}
		}
	}
	return f, nil
}

// readJSON reads an optional file into v. found is false if the file does not exist.
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

// notNumbers matches NaN and Infinity, which Python writes although JSON does not allow them. It also matches JSON's strings,
// which may contain the same words.
var notNumbers = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|-?\bInfinity\b|\bNaN\b`)

// quoteNotNumbers turns NaN and Infinity into strings, so that they are errors only for keys that are read as numbers.
func quoteNotNumbers(text []byte) []byte {
	return notNumbers.ReplaceAllFunc(text, func(found []byte) []byte {
		if found[0] == '"' {
			return found
		}
		return slices.Concat([]byte(`"`), found, []byte(`"`))
	})
}

// readSpecial reads the special tokens of one file. Each is a text, or an object with the text as its content.
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

// readTemplate reads chat_template.jinja or, if there is none, chat_template of tokenizer_config.json: a text, or several
// texts by name, of which it takes "default".
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

// readStop reads eos_token_id of one file: an id, a list of ids, or null.
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
