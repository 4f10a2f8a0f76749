package offline

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ldalign/ldalign/models/decode"
	"github.com/ldalign/ldalign/models/tokenizer"
	"github.com/ldalign/ldalign/schemas"
)

// ErrTooLong reports that a single message is longer than the model's context.
var ErrTooLong = errors.New("the message is too long")

// Conversation is a chat with a model.
type Conversation struct {
	model    *Model
	sampling Sampling
	system   string
	messages []tokenizer.Message
	turns    int // since the conversation began; each turn has its own random numbers
}

// NewConversation begins a conversation, with a system message if system is not empty. It returns runs.ErrSettings if the
// sampling does not fit the model.
func NewConversation(m *Model, s Sampling, system string) (*Conversation, error) {
	s, err := s.check(m.Config().MaxLength())
	return &Conversation{model: m, sampling: s, system: system}, err
}

// Reset forgets the messages and keeps the system message.
func (c *Conversation) Reset() { c.messages, c.turns = nil, 0 }

// SetSystem changes the system message and forgets the others.
func (c *Conversation) SetSystem(text string) {
	c.system = text
	c.Reset()
}

// Messages returns the messages that the model reads, with the system message first.
func (c *Conversation) Messages() []tokenizer.Message {
	if c.system == "" {
		return c.messages
	}
	return append([]tokenizer.Message{{Role: "system", Content: c.system}}, c.messages...)
}

// Reply is an answer of the model.
type Reply struct {
	Text   string
	Prompt int // tokens of the conversation before it
	Tokens int
	Reason string // empty if the answer was interrupted
	First  time.Duration
	Took   time.Duration
}

// TokensPerSecond returns the speed of the tokens after the first.
func (r Reply) TokensPerSecond() float64 {
	rest := r.Took - r.First
	if r.Tokens < 2 || rest <= 0 {
		return 0
	}
	return digits(float64(r.Tokens-1) / rest.Seconds())
}

// Ask sends a message to the model, and passes the answer to show as it comes. When ctx ends, the conversation keeps the part of
// the answer that was generated. Ask returns an *AskError if the message cannot be asked, for instance because the template
// rejects it; the conversation is then unchanged. Any other error is the model's. If old messages no longer fit the context, Ask
// drops them, and calls dropped, if not nil, with their number before the answer begins.
func (c *Conversation) Ask(ctx context.Context, message string, dropped func(int), show func(text string)) (Reply, error) {
	before := c.messages
	c.messages = append(before[:len(before):len(before)], tokenizer.Message{Role: "user", Content: message})
	ids, n, err := c.fit()
	if err != nil {
		c.messages = before
		return Reply{}, &AskError{err}
	}
	if n > 0 && dropped != nil {
		dropped(n)
	}
	out, err := c.generate(ctx, ids, show)
	out.Prompt = len(ids)
	out.Text = strings.TrimPrefix(out.Text, c.model.Lead)
	if err != nil && !errors.Is(err, context.Canceled) {
		return out, err
	}
	if out.Text == "" && out.Reason == "" { // interrupted before the first token
		c.messages = before
		return out, nil
	}
	c.messages = append(c.messages, tokenizer.Message{Role: "assistant", Content: out.Text})
	c.turns++
	return out, nil
}

// AskError is the error of a message that the model cannot be asked.
type AskError struct{ Err error }

func (e *AskError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *AskError) Unwrap() error { return e.Err }

// fit drops the oldest messages until the conversation fits the model's context. It returns the conversation's ids and the number
// of dropped messages, or ErrTooLong if the newest message alone does not fit.
func (c *Conversation) fit() (ids []int64, dropped int, err error) {
	most := c.model.Config().MaxLength() - c.sampling.MaxTokens
	for {
		text, err := c.model.Tokenizer.Render(c.Messages(), true)
		if err != nil {
			return nil, 0, err
		}
		if ids, err = c.model.Tokenizer.Encode(text, false); err != nil {
			return nil, 0, err
		}
		if len(ids) <= most {
			return ids, dropped, nil
		}
		if len(c.messages) < 3 {
			return nil, 0, fmt.Errorf("%w: it has %d tokens with the template, there is room for %d beside %d new ones",
				ErrTooLong, len(ids), most, c.sampling.MaxTokens)
		}
		c.messages = c.messages[2:] // a question and its answer
		dropped += 2
	}
}

// generate decodes an answer and shows it as it comes.
func (c *Conversation) generate(ctx context.Context, ids []int64, show func(text string)) (out Reply, err error) {
	answer, err := c.model.Tokenizer.Answer(c.sampling.Stop...)
	if err != nil {
		return out, err
	}
	add := func(text string) {
		out.Text += text
		show(text)
	}
	start := time.Now()
	request := c.sampling.request(c.model.Tokenizer)
	request.IDs, request.Seed = ids, schemas.SampleSeed(c.sampling.Seed, 0, "chat", uint32(c.turns))
	request.OnToken = func(t decode.Token) bool {
		if out.Tokens++; out.Tokens == 1 {
			out.First = time.Since(start)
		}
		text, stopped := answer.Push(t.ID)
		add(text)
		return stopped
	}
	result, err := c.decode(ctx, request)
	out.Took = time.Since(start)
	if result.Reason != decode.Cancelled {
		out.Reason = result.Reason
	}
	add(answer.Flush())
	return out, err
}

// decode decodes one request with a cache of the request's size, since a cache for the model's whole context could take too much
// memory.
func (c *Conversation) decode(ctx context.Context, r decode.Request) (result decode.Result, err error) {
	s, err := decode.New(decode.Options{Slots: 1, Length: len(r.IDs) + r.MaxNew}, decode.Weights{Model: c.model.Model})
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, s.Close(ctx)) }()
	reply, err := s.Submit(ctx, r)
	if err != nil {
		return result, err
	}
	result = reply.Result()
	return result, result.Err
}
