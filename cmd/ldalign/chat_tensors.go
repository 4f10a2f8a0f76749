//go:build cgo

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/mattn/go-isatty"

	"github.com/ldalign/ldalign/dataset/jsonl"
	"github.com/ldalign/ldalign/models/decode"
	"github.com/ldalign/ldalign/ops/offline"
)

func (c *chatCommand) Run(ctx context.Context, e *env) (err error) {
	m, err := e.load(ctx, c.modelFlags, templateFlags{Chat: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close(ctx)) }()
	conversation, err := offline.NewConversation(m, offline.Sampling(c.samplingFlags), c.System)
	if err != nil {
		return err
	}
	ctx, quit := context.WithCancel(ctx)
	defer quit()
	chat := &chat{
		env: e, Conversation: conversation, model: m.Name,
		terminal: isatty.IsTerminal(os.Stdin.Fd()) && !e.json, quit: quit,
	}
	defer e.interrupts.take(chat.interrupt)()
	return chat.run(ctx, os.Stdin)
}

// chat is a conversation in a terminal.
type chat struct {
	*env
	*offline.Conversation
	model    string
	terminal bool // a person types
	quit     context.CancelFunc

	mu     sync.Mutex
	cancel context.CancelFunc // ends the current answer; nil between answers
}

// interrupt handles Ctrl-C: it ends the current answer or, between answers, the program.
func (c *chat) interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancel != nil {
		c.cancel()
		return
	}
	c.quit()
}

// run answers messages until the input ends. The goroutine that reads the input may outlive run: it can be blocked in a read of
// the terminal, which only the end of the process interrupts.
func (c *chat) run(ctx context.Context, in io.Reader) error {
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
		fmt.Fprintf(c.stderr, "%s; /help lists the commands, Ctrl-D ends.\n", c.model)
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

// readMessage reads a line and its continuation lines.
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

// take carries out a line: a command, or a message to answer. end reports that the user wants to quit.
func (c *chat) take(ctx context.Context, line string) (end bool, err error) {
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
		c.Reset()
	case command == "/system":
		c.SetSystem(rest)
	case command == "/save":
		c.say(c.save(rest))
	case command == "/help":
		c.tellUser("/reset, /system TEXT, /save FILE, /quit; // begins a message with a slash; Ctrl-C ends an answer")
	default:
		c.say(fmt.Errorf("there is no %s: /reset, /system TEXT, /save FILE, /quit; // begins a message with a slash", command))
	}
	return false, nil
}

// say prints what went wrong with a line; the conversation continues.
func (c *chat) say(err error) {
	if err != nil {
		announce(c.stderr, c.json, "error", err.Error())
	}
}

// tellUser prints a notice within a conversation: a plain line, or an object with --json.
func (c *chat) tellUser(format string, args ...any) {
	if c.json {
		c.notice(format, args...)
		return
	}
	fmt.Fprintf(c.stderr, format+"\n", args...)
}

// save appends the conversation to a file.
func (c *chat) save(path string) (err error) {
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
	}{ID: fmt.Sprintf("chat-%d", time.Now().UnixNano()), Model: c.model, Messages: []message{}}
	for _, m := range c.Messages() {
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

// answer asks the model. If the message itself is wrong, answer says so, leaves the conversation as it was, and returns nil. An
// error that it returns is the model's.
func (c *chat) answer(ctx context.Context, question string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.answering(cancel)
	defer c.answering(nil)
	dropped := func(n int) { c.tellUser("(the %d oldest messages no longer fit and are dropped)", n) }
	out, err := c.Ask(ctx, question, dropped, func(text string) {
		if !c.json {
			fmt.Fprint(c.stdout, text)
		}
	})
	var bad *offline.AskError
	if errors.As(err, &bad) {
		c.say(err)
		return nil
	}
	if !c.json {
		fmt.Fprintln(c.stdout)
	}
	if err != nil || (out.Text == "" && out.Reason == "") { // interrupted before the first token
		return err
	}
	return c.tell(out)
}

// answering sets the function that ends the current answer.
func (c *chat) answering(cancel context.CancelFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cancel = cancel
}

// tell prints what follows an answer: why it ended and, with --verbose, its speed.
func (c *chat) tell(out offline.Reply) error {
	if out.Reason == "" {
		out.Reason = "interrupted"
	}
	if c.json {
		line, err := jsonl.Marshal(struct {
			Content         string  `json:"content"`
			FinishReason    string  `json:"finish_reason"`
			PromptTokens    int     `json:"prompt_tokens"`
			Tokens          int     `json:"tokens"`
			FirstSeconds    float64 `json:"first_seconds"`
			TokensPerSecond float64 `json:"tokens_per_second"`
		}{out.Text, out.Reason, out.Prompt, out.Tokens, out.First.Round(time.Millisecond).Seconds(), out.TokensPerSecond()})
		if err != nil {
			return err
		}
		fmt.Fprintln(c.stdout, line)
		return nil
	}
	if c.verbose {
		fmt.Fprintf(c.stderr, "(%d tokens, %.1f tokens/s; prompt of %d tokens, %.2f s to the first; %s)\n",
			out.Tokens, out.TokensPerSecond(), out.Prompt, out.First.Seconds(), out.Reason)
	} else if out.Reason == decode.Length {
		fmt.Fprintf(c.stderr, "(cut after %d tokens: --max-tokens)\n", out.Tokens)
	}
	return nil
}
