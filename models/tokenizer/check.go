package tokenizer

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// A failure within the library, which is Rust behind C, aborts the process. So what it takes for granted about
// tokenizer.json is checked before it gets the file. The rules are those of its version 0.20.4, found by reading and by
// changing files at random; whatever else is wrong it reports itself.

// components are the parts of tokenizer.json around the model.
var components = []string{"normalizer", "pre_tokenizer", "post_processor", "decoder"}

const maxLevels = 32 // of JSON within a component; the library's own limit aborts

// checkFile checks all but the vocabulary. Its components are written anew where they hold half a surrogate pair, which
// Go reads as U+FFFD and the library does not read.
func (f *folder) checkFile(fields map[string]json.RawMessage) (changed bool, err error) {
	for key, value := range fields {
		if key == "model" {
			continue
		}
		// The library's errors are C strings, of which one that quotes a NUL cannot be made.
		if strings.Contains(key, "\x00") || bytes.Contains(value, []byte(`\u0000`)) {
			return false, fmt.Errorf("%q holds a NUL", short(key))
		}
	}
	for _, key := range components {
		if len(fields[key]) == 0 {
			continue
		}
		var value any
		if err := json.Unmarshal(fields[key], &value); err != nil {
			return false, fmt.Errorf("%s: %w", key, err)
		}
		if err := f.checkComponent(value, 0); err != nil {
			return false, fmt.Errorf("%s: %w", key, err)
		}
		if bytes.Contains(bytes.ToLower(fields[key]), []byte(`\ud`)) {
			if fields[key], err = json.Marshal(value); err != nil {
				return false, fmt.Errorf("%s: %w", key, err)
			}
			changed = true
		}
	}
	return changed, f.checkModel(fields["model"])
}

// checkComponent checks a normalizer, pre-tokenizer, post-processor or decoder, or what it is made of.
func (f *folder) checkComponent(value any, level int) error {
	if value == nil {
		return nil
	}
	c, ok := value.(map[string]any)
	if !ok {
		return errors.New("not an object")
	}
	if err := checkLevels(value, 0); err != nil {
		return err
	}
	if level > maxLevels {
		return fmt.Errorf("more than %d sequences in each other", maxLevels)
	}
	for _, key := range []string{"normalizers", "pretokenizers", "processors", "decoders"} {
		list, _ := c[key].([]any)
		for i, inner := range list {
			if err := f.checkComponent(inner, level+1); err != nil {
				return fmt.Errorf("%s %d: %w", key, i, err)
			}
		}
	}
	if prefix, ok := c["prepend"]; ok && prefix == "" {
		return errors.New("a Prepend with an empty text")
	}
	if pattern, ok := c["pattern"].(map[string]any); ok && c["content"] != "" && matchesNothing(pattern) {
		return errors.New("a Replace of the empty text")
	}
	if stop, ok := c["stop"].(float64); ok && stop != 0 {
		return errors.New("a Strip at the end of tokens (stop is not 0) is not supported")
	}
	if charsmap, ok := c["precompiled_charsmap"]; ok || c["type"] == "Precompiled" {
		if err := checkCharsmap(charsmap); err != nil {
			return fmt.Errorf("precompiled_charsmap: %w", err)
		}
	}
	for _, key := range []string{"sep", "cls"} {
		if pair, ok := c[key].([]any); ok {
			if err := f.checkIDs(pair[len(pair)-min(1, len(pair)):]); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
		}
	}
	if c["type"] == "TemplateProcessing" || c["single"] != nil {
		return f.checkTemplate(c)
	}
	return nil
}

// matchesNothing says whether a pattern can match between two characters, where the library's Replace fails. What only
// the library's own dialect expresses is let through.
func matchesNothing(pattern map[string]any) bool {
	if text, ok := pattern["String"].(string); ok {
		return text == ""
	}
	text, _ := pattern["Regex"].(string)
	expression, err := regexp.Compile(text)
	if err != nil {
		return false
	}
	matches := expression.FindAllStringIndex("ab 1.\n日A\t", -1)
	return slices.ContainsFunc(matches, func(m []int) bool { return m[0] == m[1] })
}

func checkLevels(value any, level int) error {
	if level > maxLevels {
		return fmt.Errorf("more than %d levels", maxLevels)
	}
	switch v := value.(type) {
	case map[string]any:
		for _, inner := range v {
			if err := checkLevels(inner, level+1); err != nil {
				return err
			}
		}
	case []any:
		for _, inner := range v {
			if err := checkLevels(inner, level+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkTemplate: the special tokens that the templates name are defined, and a single text has no second part.
func (f *folder) checkTemplate(c map[string]any) error {
	tokens, _ := c["special_tokens"].(map[string]any)
	for _, key := range []string{"single", "pair"} {
		pieces, _ := c[key].([]any)
		for i, p := range pieces {
			piece, _ := p.(map[string]any)
			if s, ok := piece["Sequence"].(map[string]any); ok && key == "single" && s["id"] != "A" {
				return fmt.Errorf("single: piece %d is of a second text", i)
			}
			s, ok := piece["SpecialToken"].(map[string]any)
			if !ok {
				continue
			}
			id, _ := s["id"].(string)
			token, ok := tokens[id].(map[string]any)
			if !ok {
				return fmt.Errorf("%s: the token %q is not among special_tokens", key, short(id))
			}
			ids, _ := token["ids"].([]any)
			texts, _ := token["tokens"].([]any)
			if len(ids) != len(texts) {
				return fmt.Errorf("special token %q: %d ids and %d tokens", short(id), len(ids), len(texts))
			}
			if err := f.checkIDs(ids); err != nil {
				return fmt.Errorf("special token %q: %w", short(id), err)
			}
		}
	}
	return nil
}

// checkIDs: a post-processor adds only ids of the vocabulary.
func (f *folder) checkIDs(ids []any) error {
	for _, id := range ids {
		if n, ok := id.(float64); !ok || n < 0 || n >= float64(f.size) || n != float64(int64(n)) {
			return fmt.Errorf("id %v is not in the vocabulary of %d", id, f.size)
		}
	}
	return nil
}

// checkModel checks BPE's merges, of which an error may quote a NUL and a prefix may be cut off, and that a text has
// the same tokens every time.
func (f *folder) checkModel(text json.RawMessage) error {
	var model struct {
		Merges  []json.RawMessage `json:"merges"`
		Prefix  string            `json:"continuing_subword_prefix"`
		Dropout float64           `json:"dropout"`
		Vocab   json.RawMessage   `json:"vocab"`
	}
	if err := json.Unmarshal(text, &model); err != nil {
		return fmt.Errorf("model: %w", err)
	}
	if model.Dropout != 0 {
		return fmt.Errorf("model: dropout of %v makes the tokens of a text random; set it to null", model.Dropout)
	}
	if len(model.Merges) == 0 {
		return nil
	}
	vocab := map[string]int64{} // without added tokens
	if err := json.Unmarshal(model.Vocab, &vocab); err != nil {
		return fmt.Errorf("model: merges with a vocabulary that is no object: %w", err)
	}
	for i, raw := range model.Merges {
		pair, err := mergePair(raw)
		if err != nil {
			return fmt.Errorf("model: merge %d: %w", i, err)
		}
		a, b := pair[0], pair[1]
		n := len(model.Prefix)
		if n > len(b) || n < len(b) && !utf8.RuneStart(b[n]) {
			return fmt.Errorf("model: merge %d: %q does not begin with %q", i, short(b), short(model.Prefix))
		}
		for _, token := range []string{a, b, a + b[n:]} {
			if _, ok := vocab[token]; !ok {
				return fmt.Errorf("model: merge %d: token %q is not in the vocabulary", i, short(token))
			}
		}
	}
	return nil
}

// mergePair reads a merge: two texts, or in older files one with a space between.
func mergePair(raw json.RawMessage) (pair []string, err error) {
	if raw[0] == '"' {
		var text string
		if err := json.Unmarshal(raw, &text); err != nil {
			return nil, err
		}
		pair = strings.Split(text, " ")
	} else if err := json.Unmarshal(raw, &pair); err != nil {
		return nil, err
	}
	if len(pair) != 2 {
		return nil, fmt.Errorf("%d tokens instead of 2", len(pair))
	}
	return pair, nil
}

// checkCharsmap walks SentencePiece's table of replacements: a size, a trie as a double array (Yata et al. 2007, in
// the layout of darts-clone), and the replacements, ended by NUL, to which its leaves point.
func checkCharsmap(value any) error {
	text, ok := value.(string)
	if !ok {
		return errors.New("missing")
	}
	blob, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return err
	}
	if len(blob) < 4 {
		return errors.New("shorter than its size")
	}
	size := uint64(binary.LittleEndian.Uint32(blob)) / 4
	blob = blob[4:]
	if size == 0 || size > uint64(len(blob))/4 {
		return fmt.Errorf("a trie of %d units in %d bytes", size, len(blob))
	}
	trie, replacements := blob[:4*size], blob[4*size:]
	if !utf8.Valid(replacements) {
		return errors.New("the replacements are not UTF-8")
	}
	unit := func(at uint32) uint32 { return binary.LittleEndian.Uint32(trie[4*at:]) }
	offset := func(u uint32) uint32 { return (u >> 10) << ((u & (1 << 9)) >> 6) }
	seen := make([]bool, size)
	for todo := []uint32{offset(unit(0))}; len(todo) > 0; {
		node := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		// Whatever byte comes, its unit is looked up.
		if uint64(node|0xFF) >= size {
			return fmt.Errorf("a node at %d of a trie of %d units", node, size)
		}
		if seen[node] {
			continue
		}
		seen[node] = true
		for c := uint32(1); c <= 0xFF; c++ {
			u := unit(node ^ c)
			if u&(1<<31|0xFF) != c {
				continue
			}
			child := node ^ c ^ offset(u)
			todo = append(todo, child)
			if u>>8&1 == 1 && uint64(child) < size {
				at := int(unit(child) & (1<<31 - 1))
				if at > len(replacements) || at < len(replacements) && !utf8.RuneStart(replacements[at]) {
					return fmt.Errorf("a replacement at %d of %d bytes", at, len(replacements))
				}
			}
		}
	}
	return nil
}

// checkUnigram checks an entry of Unigram's vocabulary.
func checkUnigram(pair []any) error {
	if len(pair) != 2 {
		return fmt.Errorf("%d values instead of a text and a score", len(pair))
	}
	if text, ok := pair[0].(string); !ok || text == "" {
		return errors.New("no text")
	}
	if _, ok := pair[1].(float64); !ok {
		return errors.New("no score")
	}
	return nil
}
