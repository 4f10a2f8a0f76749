package tokenizer

import (
	"fmt"
	"slices"
	"strings"
)

// FormatOptions determine how a prompt becomes text. The zero value means auto without a system message.
type FormatOptions struct {
	// Template is one of
	//   - auto (or empty): chat if the tokenizer has a chat template, else raw;
	//   - chat: the chat template, with the prompt as the user's turn and the response as the assistant's;
	//   - raw: the prompt, followed directly by the response;
	//   - a text with {prompt} once: the text with the prompt in that place, followed directly by the response.
	Template string
	// System is the system message before every prompt; empty for none. It needs a chat template.
	System string
	// CutAtEnd ends a response at the first end-of-sequence token that is written out in it. Otherwise such a response is an error.
	CutAtEnd bool
}

// Format turns a prompt and a response into token ids by the rule in the package comment. It may be used by several goroutines,
// until the tokenizer is closed.
type Format struct {
	tokenizer *Tokenizer
	chat      bool
	system    string
	cutAtEnd  bool
	// before and after are the texts around the prompt without a chat template.
	before, after string
}

const (
	placeholder = "{prompt}"
	edge        = 60 // bytes that an error shows of the text before a boundary
)

// NewFormat checks the options against the tokenizer. Errors wrap ErrTemplate.
func NewFormat(t *Tokenizer, options FormatOptions) (*Format, error) {
	f := &Format{tokenizer: t, system: options.System, cutAtEnd: options.CutAtEnd}
	switch template := options.Template; {
	case template == "chat", (template == "auto" || template == "") && t.hasTemplate:
		if t.templateErr != nil {
			return nil, t.templateErr
		}
		f.chat = true
	case template == "raw", template == "auto", template == "":
	case strings.Count(template, placeholder) == 1:
		f.before, f.after, _ = strings.Cut(template, placeholder)
	default:
		return nil, fmt.Errorf("%w: %q is not auto, chat, raw or a text with %s in it once",
			ErrTemplate, template, placeholder)
	}
	if f.system != "" && !f.chat {
		return nil, fmt.Errorf("%w: a system message needs a chat template", ErrTemplate)
	}
	return f, nil
}

// Text returns the text of a prompt as the model reads it, up to where the response begins.
func (f *Format) Text(prompt string) (string, error) {
	if !f.chat {
		return f.before + prompt + f.after, nil
	}
	return f.tokenizer.Render(f.messages(prompt), true)
}

// Pair returns the ids of a prompt, from which generation starts, and of a response to it, which end with exactly one
// end-of-sequence token. The error wraps ErrTemplate, ErrNotPrefix, or ErrEncode (also for a response that contains an
// end-of-sequence token, see FormatOptions.CutAtEnd).
func (f *Format) Pair(prompt, response string) (promptIDs, responseIDs []int64, err error) {
	if !f.cutAtEnd {
		if err := f.checkResponse(response); err != nil {
			return nil, nil, err
		}
	}
	text, err := f.Text(prompt)
	if err != nil {
		return nil, nil, err
	}
	whole, err := f.wholeText(text, prompt, response)
	if err != nil {
		return nil, nil, err
	}
	if promptIDs, err = f.encodePrompt(text); err != nil {
		return nil, nil, err
	}
	wholeIDs, err := f.tokenizer.Encode(whole, false)
	if err != nil {
		return nil, nil, err
	}
	if len(wholeIDs) >= len(promptIDs) && slices.Equal(wholeIDs[:len(promptIDs)], promptIDs) {
		responseIDs = slices.Clone(wholeIDs[len(promptIDs):])
	} else {
		if responseIDs, err = f.tokenizer.Encode(whole[len(text):], false); err != nil {
			return nil, nil, err
		}
		parted := f.tokenizer.Decode(slices.Concat(promptIDs, responseIDs), false)
		if parted != f.tokenizer.Decode(wholeIDs, false) {
			return nil, nil, fmt.Errorf(
				"%w: the tokenizer merges the end of %q and the beginning of %q into one token; end the template with a newline",
				ErrNotPrefix, tail(text, edge), short(whole[len(text):]))
		}
	}
	return promptIDs, f.end(responseIDs), nil
}

// wholeText returns the text of prompt and response, with whatever the template writes after the response.
func (f *Format) wholeText(text, prompt, response string) (string, error) {
	if !f.chat {
		return text + response, nil
	}
	whole, err := f.tokenizer.Render(append(f.messages(prompt), Message{Role: "assistant", Content: response}), false)
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(whole, text) {
		return "", fmt.Errorf("%w: the chat template writes the prompt differently when a response follows: %q became %q",
			ErrNotPrefix, tail(text, edge), tail(whole, edge))
	}
	return whole, nil
}

func (f *Format) messages(prompt string) []Message {
	var messages []Message
	if f.system != "" {
		messages = append(messages, Message{Role: "system", Content: f.system})
	}
	return append(messages, Message{Role: "user", Content: prompt})
}

func (f *Format) encodePrompt(text string) ([]int64, error) {
	ids, err := f.tokenizer.Encode(text, false)
	if err == nil && len(ids) == 0 {
		err = fmt.Errorf("%w: the prompt %q has no tokens", ErrEncode, short(text))
	}
	return ids, err
}

// checkResponse returns an error for a response in which sampling would have stopped early.
func (f *Format) checkResponse(response string) error {
	ids, err := f.tokenizer.Encode(response, false)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(ids, f.ends); i >= 0 {
		return fmt.Errorf("%w: the response contains the end-of-sequence token %q; remove it from the data", ErrEncode,
			f.tokenizer.Decode(ids[i:i+1], false))
	}
	return nil
}

func (f *Format) ends(id int64) bool { return slices.Contains(f.tokenizer.eos, id) }

// end cuts the ids after the first end-of-sequence token, or adds one if there is none.
func (f *Format) end(ids []int64) []int64 {
	if i := slices.IndexFunc(ids, f.ends); i >= 0 {
		return ids[:i+1]
	}
	return append(ids, f.tokenizer.eos[0])
}
