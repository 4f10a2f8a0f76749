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

// ErrTooLong: a message alone is longer than the model's context.
var ErrTooLong = errors.New("the message is too long")

// Conversation is a chat with a model.
type Conversation struct {
	model    *Model
	sampling Sampling
	system   string
	messages []tokenizer.Message
	turns    int // since the conversation began: each has random numbers of its own
}

// NewConversation begins a conversation, with a system message unless that is empty.
func NewConversation(m *Model, s Sampling, system string) (*Conversation, error) {
	s, err := s.check(m.Config().MaxLength())
	return &Conversation{model: m, sampling: s, system: system}, err
}

// Reset forgets the messages. The system message stays.
func (c *Conversation) Reset() { c.messages, c.turns = nil, 0 }

// SetSystem changes the system message and forgets the others.
func (c *Conversation) SetSystem(text string) {
	c.system = text
	c.Reset()
}

// Messages are those that the model reads.
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
	Reason string // empty for one that was interrupted
	First  time.Duration
	Took   time.Duration
}

// TokensPerSecond is the speed of the tokens behind the first.
func (r Reply) TokensPerSecond() float64 {
	rest := r.Took - r.First
	if r.Tokens < 2 || rest <= 0 {
		return 0
	}
	return digits(float64(r.Tokens-1) / rest.Seconds())
}

// Ask asks the model, and shows the answer as it comes. When ctx ends, what there is of the answer stays in the conversation.
// The error of a message that cannot be read, by its template say, is an *AskError, and leaves the conversation as it was;
// any other is the model's. dropped, if any, is told of messages that are left out, before the answer begins.
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
	if out.Text == "" && out.Reason == "" { // interrupted before anything came
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

// Unwrap is the cause.
func (e *AskError) Unwrap() error { return e.Err }

// fit returns the ids of the conversation, without its oldest messages when they do not all fit the model's context, and how
// many it has dropped. The newest one always stays; an error says that it is too long.
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

// decode decodes one request with keys and values for it alone: those for the model's whole context could be too much memory.
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
