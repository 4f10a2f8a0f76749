package tokenizer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

const maxErrorBytes = 400 // the most that an error quotes of a text

// Message is one turn of a conversation.
type Message struct {
	// Role is system, user or assistant.
	Role string `json:"role"`
	// Content is the text of the turn.
	Content string `json:"content"`
}

// chatTemplate is a compiled Jinja chat template with transformers' settings and functions (see bridge/src). It is not
// trusted: it cannot read files, and its time and memory are limited.
type chatTemplate struct {
	compiled *compiled
	tokens   map[string]string // bos_token, eos_token, ...
}

// compileTemplate compiles source. tokens are the special tokens' texts by name. Errors wrap ErrTemplate.
func compileTemplate(source string, tokens map[string]string) (*chatTemplate, error) {
	c, err := compile(source)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTemplate, err)
	}
	return &chatTemplate{compiled: c, tokens: tokens}, nil
}

// render returns the conversation as text. Errors wrap ErrTemplate.
func (t *chatTemplate) render(messages []Message, addGenerationPrompt bool) (string, error) {
	variables := map[string]any{
		"messages": messages, "add_generation_prompt": addGenerationPrompt, "tools": nil, "documents": nil,
	}
	for name, token := range t.tokens {
		variables[name] = token
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(variables); err != nil {
		return "", fmt.Errorf("%w: %w", ErrTemplate, err)
	}
	text, err := t.compiled.render(b.Bytes())
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrTemplate, err)
	}
	return text, nil
}

// short and tail return the beginning and the end of a text, as much as an error quotes.
func short(text string) string {
	if len(text) > maxErrorBytes {
		return strings.ToValidUTF8(text[:maxErrorBytes], "") + "…"
	}
	return text
}

func tail(text string, n int) string {
	if len(text) > n {
		return "…" + strings.ToValidUTF8(text[len(text)-n:], "")
	}
	return text
}
