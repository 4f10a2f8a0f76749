package main

import (
	"context"
	"errors"

	"github.com/ldalign/ldalign/ops/offline"
)

type scoreCommand struct {
	modelFlags
	templateFlags
	Input    string `help:"JSON lines with prompt and response; - is standard input." required:"" placeholder:"FILE"`
	Out      string `help:"JSON lines to write; an existing file is continued." placeholder:"FILE"`
	Overlong string `help:"What to do with a record that is too long for the model: cut drops the first tokens of the prompt, reject ends the verb." enum:"cut,reject" default:"cut"`
	Step     int    `help:"Tokens that are computed together. It changes no number." default:"256" placeholder:"N"`
}

func (scoreCommand) Help() string {
	return `Example:

    ldalign score --model ./smollm2 --input pairs.jsonl --out scored.jsonl
    ldalign score --raw --model ./smollm2 --input '-' < pairs.jsonl

A line in is {"id": …, "prompt": "…", "response": "…"}. A line out adds logprob (log p(response | prompt), the sum over the
response's tokens), tokens (their number) and token_logprobs. With a chat template the response's end token counts, as in
training; with --raw prompt and response are joined as they are, and only the tokenizer's own special tokens are added. The
token_ids that generate wrote are scored themselves, where the response is still their text.
After Ctrl-C the records that are done are written; with --out the same command continues there. See docs/models.md.`
}

func (c *scoreCommand) Run(ctx context.Context, e *env) (err error) {
	m, err := e.load(ctx, c.modelFlags, c.templateFlags)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close(ctx)) }()
	options := offline.ScoreOptions{Template: offline.Template(c.templateFlags), Overlong: c.Overlong, Step: c.Step}
	return e.convert("score", c.Input, c.Out, func(f offline.Files) (offline.Summary, error) {
		return offline.Score(ctx, m, f, options)
	})
}
