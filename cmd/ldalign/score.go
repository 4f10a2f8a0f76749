package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/score"
	"github.com/ldalign/ldalign/models/tokenizer"
)

type scoreCommand struct {
	modelFlags
	templateFlags
	Input    string `help:"JSON lines with prompt and response; - is standard input." required:"" placeholder:"FILE"`
	Out      string `help:"JSON lines to write; started again, the verb goes on behind what is there." placeholder:"FILE"`
	Overlong string `help:"A record for which the model has no room: cut drops the first tokens of the prompt, reject ends the verb." enum:"cut,reject" default:"cut"`
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
Ctrl-C ends it behind what is done; with --out the same command goes on there. docs/models.md has the whole of it.`
}

func (c *scoreCommand) Run(ctx context.Context, e *env) (err error) {
	if c.Step < 1 {
		return fmt.Errorf("%w: --step is %d", errUsage, c.Step)
	}
	o, err := e.load(ctx, c.modelFlags, c.templateFlags)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.Close(ctx)) }()
	pair, err := c.pairs(o)
	if err != nil {
		return err
	}
	most := o.model.Config().MaxLength()
	rows := map[*converted]models.Sequence{}
	cut, sampled, tokens, read := 0, 0, 0, 0
	var took time.Duration
	job := conversion{
		verb: "score", unit: "records", input: c.Input, output: c.Out, window: 512,
		settings: map[string]any{"verb": "score", "model": o.place.name, "template": c.templateFlags, "overlong": c.Overlong},
		prepare: func(r *converted) error {
			response, err := r.text("response")
			if err != nil {
				return err
			}
			var promptIDs []int64
			lost := 0
			responseIDs := sampledIDs(o, r, response)
			if responseIDs != nil {
				sampled++
				promptIDs, lost, err = sampledFrom(o, r)
			} else {
				promptIDs, responseIDs, err = writtenIDs(r, response, pair)
			}
			if err != nil {
				return err
			}
			if over := len(promptIDs) + len(responseIDs) - most; over > 0 {
				if c.Overlong == "reject" || over >= len(promptIDs) {
					return r.fail("prompt", "has %d tokens and the response %d, the model takes %d together",
						len(promptIDs), len(responseIDs), most)
				}
				promptIDs, lost = promptIDs[over:], lost+over
			}
			if lost > 0 {
				cut++
				if err := r.set("cut_prompt_tokens", lost); err != nil {
					return err
				}
			}
			rows[r] = models.Join(promptIDs, responseIDs)
			return nil
		},
		work: func(ctx context.Context, records []*converted, emit func(i int) error) error {
			defer clear(rows)
			list := make([]models.Sequence, len(records))
			for i, r := range records {
				list[i] = rows[r]
			}
			start := time.Now()
			logprobs, err := score.LogProbs(ctx, o.model, list, score.Options{Step: c.Step}, nil)
			took += time.Since(start)
			if err != nil {
				return err
			}
			sums := score.Sums(logprobs)
			for i, r := range records {
				tokens += len(logprobs[i])
				read += len(list[i].IDs)
				if math.IsNaN(sums[i]) || math.IsInf(sums[i], 0) {
					return fmt.Errorf("%s:%d: %w", r.File, r.Number, errNotFinite)
				}
				err := errors.Join(r.set("logprob", sums[i]), r.set("tokens", len(logprobs[i])), r.set("token_logprobs", logprobs[i]))
				if err != nil {
					return err
				}
				if err := emit(i); err != nil {
					return err
				}
			}
			return nil
		},
	}
	done, before, err := e.convert(ctx, job)
	if err := job.ended(err, done, before); err != nil {
		return err
	}
	return e.summary("score", count{"records", done}, count{"before", before}, count{"tokens", tokens}, count{"read_tokens", read},
		count{"cut_prompts", cut}, count{"by_token_ids", sampled}, count{"seconds", round(took)})
}

// writtenIDs are the ids of a record's texts.
func writtenIDs(r *converted, response string, pair pairing) (promptIDs, responseIDs []int64, err error) {
	prompt, err := r.text("prompt")
	if err != nil {
		return nil, nil, err
	}
	if promptIDs, responseIDs, err = pair(prompt, response); err != nil {
		err = r.fail("response", "%v", err)
	}
	return promptIDs, responseIDs, err
}

// sampledIDs are the token_ids of a record that generate wrote; nil where it has none whose text is the response. A text
// does not tell which tokens it was sampled as, nor whether an end token was among them.
func sampledIDs(o *offline, r *converted, response string) []int64 {
	var ids []int64
	if !r.has("token_ids") || json.Unmarshal(r.fields["token_ids"], &ids) != nil || len(ids) == 0 {
		return nil
	}
	unknown := func(id int64) bool { return id < 0 || id >= int64(o.tokenizer.Vocab()) }
	if slices.ContainsFunc(ids, unknown) || o.response(ids) != response {
		return nil
	}
	return ids
}

// sampledFrom is the prompt of such a record, and how many tokens generate took from its front.
func sampledFrom(o *offline, r *converted) (ids []int64, lost int, err error) {
	prompt, messages, err := readPrompt(r)
	if err != nil {
		return nil, 0, err
	}
	if ids, err = o.prompt(prompt, messages); err != nil {
		return nil, 0, r.fail("prompt", "%v", err)
	}
	if r.has("cut_prompt_tokens") {
		if err := r.into("cut_prompt_tokens", "a whole number", &lost); err != nil {
			return nil, 0, err
		}
		if lost < 0 || lost >= len(ids) {
			return nil, 0, r.fail("cut_prompt_tokens", "is %d of a prompt of %d tokens", lost, len(ids))
		}
	}
	return ids[lost:], lost, nil
}

var errNotFinite = errors.New("the model's scores are not finite: its weights are damaged, or too large for their type")

// pairing is how a prompt and a response become ids.
type pairing func(prompt, response string) (promptIDs, responseIDs []int64, err error)

func (c *scoreCommand) pairs(o *offline) (pairing, error) {
	if o.chat {
		format, err := tokenizer.NewFormat(o.tokenizer, tokenizer.FormatOptions{Template: "chat", System: o.system})
		if err != nil {
			return nil, err
		}
		return format.Pair, nil
	}
	return func(prompt, response string) ([]int64, []int64, error) {
		return joinRaw(o.tokenizer, prompt, response)
	}, nil
}

// joinRaw tokenises prompt + response as one text, with the special tokens that the tokenizer adds, and parts them. Where
// the tokenizer merges over the boundary, the response is tokenised on its own, provided that this gives the same text.
func joinRaw(t *tokenizer.Tokenizer, prompt, response string) (promptIDs, responseIDs []int64, err error) {
	whole, err := t.Encode(prompt+response, true)
	if err != nil {
		return nil, nil, err
	}
	if promptIDs, err = t.Encode(prompt, true); err != nil {
		return nil, nil, err
	}
	// What the tokenizer puts at the end of a text (an end token, say) is not part of a prompt that goes on.
	if bare, err := t.Encode(prompt, false); err == nil {
		if at := findIDs(promptIDs, bare); at >= 0 {
			promptIDs = promptIDs[:at+len(bare)]
		}
	}
	if len(promptIDs) == 0 {
		return nil, nil, errors.New("prompt has no tokens, and the tokenizer adds none: nothing predicts the response's first token")
	}
	if len(whole) >= len(promptIDs) && slices.Equal(whole[:len(promptIDs)], promptIDs) {
		return promptIDs, whole[len(promptIDs):], nil
	}
	if responseIDs, err = t.Encode(response, false); err != nil {
		return nil, nil, err
	}
	if t.Decode(slices.Concat(promptIDs, responseIDs), true) != t.Decode(whole, true) {
		return nil, nil, fmt.Errorf("%w: the tokenizer merges over the end of the prompt", tokenizer.ErrNotPrefix)
	}
	return promptIDs, responseIDs, nil
}

// findIDs is where part begins in ids, -1 if nowhere.
func findIDs(ids, part []int64) int {
	for i := 0; i+len(part) <= len(ids); i++ {
		if slices.Equal(ids[i:i+len(part)], part) {
			return i
		}
	}
	return -1
}
