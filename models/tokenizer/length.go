package tokenizer

import (
	"errors"
	"fmt"
)

var (
	// ErrEmpty means that a prompt or a response is the empty string.
	ErrEmpty = errors.New("tokenizer: empty prompt or response")
	// ErrTooLong means that a prompt or a response is longer than its limit and Limits.Reject is set.
	ErrTooLong = errors.New("tokenizer: longer than its limit")
)

// Limits is the length rule. A longer prompt keeps its last Prompt tokens, and a longer response its first Response tokens. With
// Reject they are refused instead.
type Limits struct {
	Prompt, Response int
	Reject           bool
}

// Tokens are a prompt and a response as the model sees them, after the length rule.
type Tokens struct {
	// Response ends with the end-of-sequence token unless it was cut.
	Prompt, Response []int64
	// Cut is how many tokens the length rule removed.
	Cut int
}

// Fit returns Pair's ids after a length rule. Besides Pair's errors it returns ErrEmpty and ErrTooLong.
func (f *Format) Fit(prompt, response string, limits Limits) (Tokens, error) {
	if prompt == "" || response == "" {
		return Tokens{}, ErrEmpty
	}
	p, r, err := f.Pair(prompt, response)
	if err != nil {
		return Tokens{}, err
	}
	t := Tokens{Prompt: p, Response: r}
	if over := len(p) - limits.Prompt; over > 0 {
		t.Prompt, t.Cut = p[over:], over
	}
	if over := len(r) - limits.Response; over > 0 {
		t.Response, t.Cut = r[:limits.Response], t.Cut+over
	}
	if t.Cut > 0 && limits.Reject {
		return Tokens{}, fmt.Errorf("%w: %d prompt and %d response tokens, at most %d and %d are allowed",
			ErrTooLong, len(p), len(r), limits.Prompt, limits.Response)
	}
	return t, nil
}
