package tokenizer

import (
	"fmt"
	"slices"
	"strings"
)

// FormatOptions say how a prompt becomes text. The zero value is auto without a system message.
type FormatOptions struct {
	// Template is
	//   - auto (or empty): chat where the tokenizer has a chat template, else raw;
	//   - chat: the chat template, prompt as user's turn and response as assistant's;
	//   - raw: prompt and response joined with nothing between;
	//   - a text with {prompt} once: the prompt set into it, and the response joined to its end.
	Template string
	// System is the system message before every prompt, empty for none. Only with a chat template.
	System string
	// CutAtEnd has a response end at the first end-of-sequence token that is written out in it, instead of being refused.
	CutAtEnd bool
}

// Format turns a prompt and a response into token ids by the package's rule. It may be used from several goroutines,
// until the tokenizer is closed.
type Format struct {
	tokenizer *Tokenizer
	chat      bool
	system    string
	cutAtEnd  bool
	// before and after stand around the prompt where there is no chat template.
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
		return nil, fmt.Errorf("%w: %q is not auto, chat, raw or a text that holds %s once",
			ErrTemplate, template, placeholder)
	}
	if f.system != "" && !f.chat {
		return nil, fmt.Errorf("%w: a system message needs a chat template", ErrTemplate)
	}
	return f, nil
}

// Text is what the model reads of a prompt, up to where the response begins.
func (f *Format) Text(prompt string) (string, error) {
	if !f.chat {
		return f.before + prompt + f.after, nil
	}
	return f.tokenizer.Render(f.messages(prompt), true)
}

// Prompt gives the ids that generation starts from.
func (f *Format) Prompt(prompt string) ([]int64, error) {
	text, err := f.Text(prompt)
	if err != nil {
		return nil, err
	}
	return f.encodePrompt(text)
}

// Pair gives the ids of a prompt, equal to Prompt's, and of a response to it, which end with one end-of-sequence token.
// Errors wrap ErrTemplate, ErrEncode (also for a response that holds an end-of-sequence token, see FormatOptions) or
// ErrNotPrefix.
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
				"%w: the tokenizer merges over the boundary of %q and %q; end the template with a newline",
				ErrNotPrefix, tail(text, edge), short(whole[len(text):]))
		}
	}
	return promptIDs, f.end(responseIDs), nil
}

// wholeText is the prompt's text with the response and what the template writes after it.
func (f *Format) wholeText(text, prompt, response string) (string, error) {
	if !f.chat {
		return text + response, nil
	}
	whole, err := f.tokenizer.Render(append(f.messages(prompt), Message{Role: "assistant", Content: response}), false)
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(whole, text) {
		return "", fmt.Errorf("%w: the chat template writes the prompt otherwise once there is a response: %q became %q",
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

// checkResponse refuses a response in which sampling would have stopped before its end.
func (f *Format) checkResponse(response string) error {
	ids, err := f.tokenizer.Encode(response, false)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(ids, f.ends); i >= 0 {
		return fmt.Errorf("%w: the response holds the end-of-sequence token %q; take it out of the data", ErrEncode,
			f.tokenizer.Decode(ids[i:i+1], false))
	}
	return nil
}

func (f *Format) ends(id int64) bool { return slices.Contains(f.tokenizer.eos, id) }

// end cuts after the first end-of-sequence token, or adds one.
func (f *Format) end(ids []int64) []int64 {
	if i := slices.IndexFunc(ids, f.ends); i >= 0 {
		return ids[:i+1]
	}
	return append(ids, f.tokenizer.eos[0])
}
