package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/mattn/go-isatty"

	"github.com/ldalign/ldalign/dataset/jsonl"
	"github.com/ldalign/ldalign/models/decode"
	"github.com/ldalign/ldalign/models/tokenizer"
	"github.com/ldalign/ldalign/ops/offline"
	"github.com/ldalign/ldalign/schemas"
)

type chatCommand struct {
	modelFlags
	System string `help:"System message; /system changes it." placeholder:"TEXT"`
	samplingFlags
}

func (chatCommand) Help() string {
	return `Example:

    ldalign chat --model ./smollm2 --temperature 0.7 --top-p 0.9
    echo "Name a colour." | ldalign chat --model my-run@3

A line is a message; a backslash at its end continues it on the next line. The model reads the whole conversation through
its chat template. Ctrl-C ends an answer, and what there is of it stays in the conversation; at the prompt it ends the
program, as /quit and the end of the input do. -v tells the speed of each answer.

    /reset           forget the conversation
    /system TEXT     set the system message and forget the conversation; without TEXT there is none
    /save FILE       append the conversation to FILE as a line of JSON with "messages", which generate reads
    /quit            end
    //text           a message that begins with a slash

When a conversation and --max-tokens no longer fit the model's context, its oldest messages are left out, and it says so.
With --json an answer is one object in a line, when it is whole.`
}

func (c *chatCommand) Run(ctx context.Context, e *env) (err error) {
	o, err := e.load(ctx, c.modelFlags, templateFlags{Chat: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.Close(ctx)) }()
	most := o.Config().MaxLength()
	if err := c.check(most); err != nil {
		return err
	}
	ctx, quit := context.WithCancel(ctx)
	defer quit()
	chat := &conversation{
		env: e, Model: o, flags: c.samplingFlags, most: most, system: c.System,
		terminal: isatty.IsTerminal(os.Stdin.Fd()) && !e.json, quit: quit,
	}
	defer e.interrupts.take(chat.interrupt)()
	return chat.run(ctx, os.Stdin)
}

// conversation is a chat at work.
type conversation struct {
	*env
	*offline.Model
	flags    samplingFlags
	most     int  // tokens of the model's context
	terminal bool // a person types
	quit     context.CancelFunc

	system   string
	messages []tokenizer.Message
	turns    int // since the conversation began: each has random numbers of its own

	mu     sync.Mutex
	cancel context.CancelFunc // of the answer that is being given, nil between answers
}

// interrupt is what Ctrl-C does: it ends the answer, or at the prompt the program.
func (c *conversation) interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancel != nil {
		c.cancel()
		return
	}
	c.quit()
}

// run answers until the input ends. The goroutine that reads it may outlive run, blocked in a read of a terminal, which
// nothing but the end of the process interrupts.
func (c *conversation) run(ctx context.Context, in io.Reader) error {
	type input struct {
		text string
		err  error
	}
	lines, ended := make(chan input), make(chan struct{})
	defer close(ended)
	go func() {
		reader := bufio.NewReader(in)
		for {
			text, err := readMessage(reader)
			select {
			case lines <- input{text, err}:
			case <-ended:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	if c.terminal {
		fmt.Fprintf(c.stderr, "%s; /help tells the commands, Ctrl-D ends.\n", c.Name)
	}
	for {
		if c.terminal {
			fmt.Fprint(c.stderr, "> ")
		}
		select {
		case <-ctx.Done():
			if c.terminal {
				fmt.Fprintln(c.stderr)
			}
			return nil
		case line := <-lines:
			end, err := c.take(ctx, strings.TrimSpace(line.text))
			switch {
			case err != nil:
				return err
			case end || errors.Is(line.err, io.EOF):
				return nil
			case line.err != nil:
				return fmt.Errorf("read the input: %w", line.err)
			}
		}
	}
}

// readMessage reads a line, and those that it continues on.
func readMessage(in *bufio.Reader) (string, error) {
	var text strings.Builder
	for {
		line, err := in.ReadString('\n')
		if text.Len()+len(line) > jsonl.MaxBytes {
			return "", fmt.Errorf("a message is longer than %d MiB", jsonl.MaxBytes>>20)
		}
		line = strings.TrimRight(line, "\r\n")
		more, goesOn := strings.CutSuffix(line, `\`)
		if text.WriteString(more); !goesOn || err != nil {
			return strings.ToValidUTF8(text.String(), "\uFFFD"), err
		}
		text.WriteByte('\n')
	}
}

// take does what a line says; end says that it was the last one.
func (c *conversation) take(ctx context.Context, line string) (end bool, err error) {
	command, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimSpace(rest)
	switch {
	case line == "":
	case strings.HasPrefix(line, "//"):
		return false, c.answer(ctx, line[1:])
	case !strings.HasPrefix(line, "/"):
		return false, c.answer(ctx, line)
	case command == "/quit", command == "/exit":
		return true, nil
	case command == "/reset":
		c.reset()
	case command == "/system":
		c.system = rest
		c.reset()
	case command == "/save":
		c.say(c.save(rest))
	case command == "/help":
		c.tellUser("/reset, /system TEXT, /save FILE, /quit; // begins a message with a slash; Ctrl-C ends an answer")
	default:
		c.say(fmt.Errorf("there is no %s: /reset, /system TEXT, /save FILE, /quit; // begins a message with a slash", command))
	}
	return false, nil
}

func (c *conversation) reset() { c.messages, c.turns = nil, 0 }

// say tells what went wrong with a line; the conversation goes on.
func (c *conversation) say(err error) {
	if err != nil {
		announce(c.stderr, c.json, "error", err.Error())
	}
}

// tellUser is a notice in a conversation: a plain line, or with --json an object.
func (c *conversation) tellUser(format string, args ...any) {
	if c.json {
		c.notice(format, args...)
		return
	}
	fmt.Fprintf(c.stderr, format+"\n", args...)
}

// all are the messages that the model reads.
func (c *conversation) all() []tokenizer.Message {
	if c.system == "" {
		return c.messages
	}
	return append([]tokenizer.Message{{Role: "system", Content: c.system}}, c.messages...)
}

// save appends the conversation to a file.
func (c *conversation) save(path string) (err error) {
	if path == "" {
		return errors.New("/save FILE: name the file")
	}
	type message struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	}
	record := struct {
		ID       string    `json:"id"`
		Model    string    `json:"model"`
		Messages []message `json:"messages"`
	}{ID: fmt.Sprintf("chat-%d", time.Now().UnixNano()), Model: c.Name, Messages: []message{}}
	for _, m := range c.all() {
		record.Messages = append(record.Messages, message(m))
	}
	line, err := jsonl.Marshal(record)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if _, err := file.WriteString(line + "\n"); err != nil {
		return err
	}
	c.tellUser("%d messages saved to %s", len(record.Messages), path)
	return nil
}

// fit gives the ids of the conversation, without its oldest messages when all of them have no room. The newest one
// always stays; an error says that it is too long.
func (c *conversation) fit() ([]int64, error) {
	room, dropped := c.most-c.flags.MaxTokens, 0
	for {
		text, err := c.Tokenizer.Render(c.all(), true)
		if err != nil {
			return nil, err
		}
		ids, err := c.Tokenizer.Encode(text, false)
		if err != nil {
			return nil, err
		}
		if len(ids) <= room {
			if dropped > 0 {
				c.tellUser("(the %d oldest messages no longer fit, and are left out)", dropped)
			}
			return ids, nil
		}
		if len(c.messages) < 3 {
			return nil, fmt.Errorf("the message has %d tokens with the template, there is room for %d beside %d new ones",
				len(ids), room, c.flags.MaxTokens)
		}
		c.messages = c.messages[2:] // a question and its answer
		dropped += 2
	}
}

// answer asks the model. What is wrong with the message is said, and the conversation is as before; an error is the
// model's.
func (c *conversation) answer(ctx context.Context, question string) error {
	before := c.messages
	c.messages = append(before[:len(before):len(before)], tokenizer.Message{Role: "user", Content: question})
	ids, err := c.fit()
	if err != nil {
		c.messages = before
		c.say(err)
		return nil
	}
	out, err := c.generate(ctx, ids)
	out.text = strings.TrimPrefix(out.text, c.Lead)
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	if err != nil {
		return err
	}
	if out.text == "" && out.reason == "" { // interrupted before anything came
		c.messages = before
		return nil
	}
	c.messages = append(c.messages, tokenizer.Message{Role: "assistant", Content: out.text})
	c.turns++
	return c.tell(out, len(ids))
}

// spoken is an answer.
type spoken struct {
	text   string
	tokens int
	reason string // empty for one that was interrupted
	first  time.Duration
	took   time.Duration
}

// generate decodes an answer and shows it as it comes.
func (c *conversation) generate(ctx context.Context, ids []int64) (out spoken, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.mu.Lock()
	c.cancel = cancel
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.cancel = nil
		c.mu.Unlock()
	}()
	answer, err := c.Tokenizer.Answer(c.flags.Stop...)
	if err != nil {
		return out, err
	}
	show := func(text string) {
		out.text += text
		if !c.json {
			fmt.Fprint(c.stdout, text)
		}
	}
	start := time.Now()
	request := c.flags.request(c.Tokenizer)
	request.IDs, request.Seed = ids, schemas.SampleSeed(c.flags.Seed, 0, "chat", uint32(c.turns))
	request.OnToken = func(t decode.Token) bool {
		if out.tokens++; out.tokens == 1 {
			out.first = time.Since(start)
		}
		text, stopped := answer.Push(t.ID)
		show(text)
		return stopped
	}
	result, err := c.decode(ctx, request)
	out.took = time.Since(start)
	if result.Reason != decode.Cancelled {
		out.reason = result.Reason
	}
	show(answer.Flush())
	if !c.json {
		fmt.Fprintln(c.stdout)
	}
	return out, err
}

// decode decodes one request with keys and values for it alone: those for the model's whole context could be too much memory.
func (c *conversation) decode(ctx context.Context, r decode.Request) (result decode.Result, err error) {
	s, err := decode.New(decode.Options{Slots: 1, Length: len(r.IDs) + r.MaxNew}, decode.Weights{Model: c.Model.Model})
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

// tell says what there is to say behind an answer.
func (c *conversation) tell(out spoken, prompt int) error {
	if out.reason == "" {
		out.reason = "interrupted"
	}
	speed := 0.0 // of the tokens behind the first
	if rest := out.took - out.first; out.tokens > 1 && rest > 0 {
		speed = math.Round(1e6*float64(out.tokens-1)/rest.Seconds()) / 1e6
	}
	if c.json {
		line, err := jsonl.Marshal(struct {
			Content         string  `json:"content"`
			FinishReason    string  `json:"finish_reason"`
			PromptTokens    int     `json:"prompt_tokens"`
			Tokens          int     `json:"tokens"`
			FirstSeconds    float64 `json:"first_seconds"`
			TokensPerSecond float64 `json:"tokens_per_second"`
		}{out.text, out.reason, prompt, out.tokens, out.first.Round(time.Millisecond).Seconds(), speed})
		if err != nil {
			return err
		}
		fmt.Fprintln(c.stdout, line)
		return nil
	}
	if c.verbose {
		fmt.Fprintf(c.stderr, "(%d tokens, %.1f tokens/s; prompt of %d tokens, %.2f s to the first; %s)\n",
			out.tokens, speed, prompt, out.first.Seconds(), out.reason)
	} else if out.reason == decode.Length {
		fmt.Fprintf(c.stderr, "(cut after %d tokens: --max-tokens)\n", out.tokens)
	}
	return nil
}

// check looks at the flags for a model that takes most tokens, and fills in what depends on it.
func (f *samplingFlags) check(most int) error {
	if f.MaxTokens == 0 {
		f.MaxTokens = min(256, most/2)
	}
	if f.MaxTokens < 1 || f.MaxTokens >= most {
		return fmt.Errorf("%w: --max-tokens is %d, the model takes prompts and responses of %d tokens together: give a smaller one",
			errUsage, f.MaxTokens, most)
	}
	if _, err := tokenizer.NewStopMatcher(f.Stop...); err != nil {
		return fmt.Errorf("%w: --stop: %w", errUsage, err)
	}
	if err := f.sampling().Validate(); err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	return nil
}
