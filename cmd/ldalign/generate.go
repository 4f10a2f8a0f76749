package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ldalign/ldalign/models/decode"
	"github.com/ldalign/ldalign/models/tokenizer"
	"github.com/ldalign/ldalign/ops/offline"
	"github.com/ldalign/ldalign/ops/progress"
	"github.com/ldalign/ldalign/schemas"
)

type generateCommand struct {
	modelFlags
	templateFlags
	samplingFlags
	Input    string `help:"JSON lines with prompt, or messages; - is standard input." required:"" placeholder:"FILE"`
	Out      string `help:"JSON lines to write; started again, the verb goes on behind what is there." placeholder:"FILE"`
	Overlong string `help:"A prompt for which the model has no room: cut keeps its last tokens, reject ends the verb." enum:"cut,reject" default:"cut"`
	Slots    int    `help:"Rows that decode together; 0 is as many as --memory allows, up to 64. It changes no text." default:"0"`
	Memory   int64  `help:"MiB for keys and values." default:"1024"`
	Prefill  int    `help:"Tokens of prompts that one step takes at most; a longer prompt goes in parts. It changes no text." default:"256" placeholder:"N"`
	LogProbs bool   `help:"Write the log-probability of each token too." name:"logprobs"`
}

// samplingFlags say how tokens are drawn.
type samplingFlags struct {
	MaxTokens         int      `help:"Tokens of a response at most; 0 is 256, or half of the model's context where that is less." default:"0" placeholder:"N"`
	Temperature       float64  `help:"Divides the logits; 0 takes the most probable token." default:"0" placeholder:"T"`
	TopK              int      `help:"Sample among the K most probable tokens; 0 is all." default:"0" placeholder:"K"`
	TopP              float64  `help:"Sample among the most probable tokens that together reach P." default:"1" placeholder:"P"`
	MinP              float64  `help:"Sample among tokens with at least this share of the greatest probability." default:"0" placeholder:"P"`
	RepetitionPenalty float64  `help:"Above 1 makes tokens that were there less probable." default:"1" placeholder:"R"`
	Seed              uint64   `help:"Seed; a record's draws are a function of it and of the record's id." default:"1"`
	Stop              []string `help:"End a response before this text; may be given several times." sep:"none" placeholder:"TEXT"`
	IgnoreEOS         bool     `help:"Go on behind end tokens, up to --max-tokens." name:"ignore-eos"`
}

func (f samplingFlags) sampling() decode.Sampling {
	return decode.Sampling{
		Temperature: f.Temperature, TopK: f.TopK, TopP: f.TopP, MinP: f.MinP, RepetitionPenalty: f.RepetitionPenalty,
	}
}

// request is what the flags say of every request.
func (f samplingFlags) request(t *tokenizer.Tokenizer) decode.Request {
	r := decode.Request{MaxNew: f.MaxTokens, Sampling: f.sampling()}
	if !f.IgnoreEOS {
		r.Stop = t.EOS()
	}
	return r
}

func (generateCommand) Help() string {
	return `Example:

    ldalign generate --model ./smollm2 --input prompts.jsonl --max-tokens 200 --temperature 0.7 --out answers.jsonl
    ldalign generate --model my-run@3 --input prompts.jsonl --out answers.jsonl

A line in is {"id": …, "prompt": "…"} or {"id": …, "messages": [{"role": "user", "content": "…"}]}; max_tokens and seed may
be given per line. A line out adds response, token_ids, logprob (of the tokens, by the model itself) and finish_reason
(stop or length); with --logprobs also token_logprobs. A record's text depends on the record and the settings only: not on
the others, nor on --slots. Ctrl-C ends it behind what is done; with --out the same command goes on there, and passes
over the ids that the file has. docs/models.md has the whole of it.`
}

// want is what a record asks for.
type want struct {
	request decode.Request
	answer  *tokenizer.Answer // nil without a stop string
	text    string
	cut     int
}

func (c *generateCommand) Run(ctx context.Context, e *env) (err error) {
	o, err := e.load(ctx, c.modelFlags, c.templateFlags)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.Close(ctx)) }()
	most := o.Config().MaxLength()
	if err := c.check(most); err != nil {
		return err
	}
	options := decode.Options{Prefill: c.Prefill}
	if c.Slots < 0 || c.Memory < 1 || c.Prefill < 1 {
		return fmt.Errorf("%w: --slots %d, --memory %d, --prefill %d", errUsage, c.Slots, c.Memory, c.Prefill)
	}
	wants := map[*offline.Item]*want{}
	cut, tokens := 0, 0
	var took time.Duration
	var task *progress.Task
	sampled := 0
	job := offline.Job{
		Verb: "generate", Window: 1024,
		Settings: map[string]any{
			"verb": "generate", "model": o.Name, "sampling": c.samplingFlags, "template": c.templateFlags, "overlong": c.Overlong,
			"logprobs": c.LogProbs,
		},
		Began: func(t *progress.Task) { task = t },
		Prepare: func(r *offline.Item) error {
			w, err := c.want(o, r, most)
			if err == nil {
				wants[r] = w
			}
			return err
		},
		Work: func(ctx context.Context, records []*offline.Item, emit func(i int) error) (err error) {
			defer clear(wants)
			next := 0
			for _, r := range records {
				w := wants[r]
				options.Length = max(options.Length, len(w.request.IDs)+w.request.MaxNew)
			}
			options.Slots = c.Slots
			if options.Slots == 0 {
				options.Slots = options.SlotsFor(o.Model, c.Memory<<20, min(64, len(records)))
			}
			scheduler, err := decode.New(options, decode.Weights{Model: o.Model})
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, scheduler.Close(ctx)) }()
			start := time.Now()
			defer func() { took += time.Since(start) }()
			return scheduler.Feed(ctx,
				func() (decode.Request, bool, error) {
					if next == len(records) {
						return decode.Request{}, false, nil
					}
					request := wants[records[next]].request
					next++
					ends := request.OnToken
					request.OnToken = func(t decode.Token) bool { // the first record may take long
						sampled++
						task.Note("tokens", sampled)
						task.Note("tokens/s", fmt.Sprintf("%.1f", float64(sampled)/(took+time.Since(start)).Seconds()))
						return ends != nil && ends(t)
					}
					return request, true, nil
				},
				func(i int, result decode.Result) error {
					if result.Err != nil {
						return fmt.Errorf("record %s: %w", records[i].Name, result.Err)
					}
					w := wants[records[i]]
					tokens += len(result.IDs)
					if w.cut > 0 {
						cut++
					}
					if err := c.finish(o, w, records[i], result); err != nil {
						return err
					}
					return emit(i)
				})
		},
	}
	return e.convert("generate", c.Input, c.Out, func(f offline.Files) (offline.Summary, error) {
		done, before, err := job.Run(ctx, f)
		return offline.Summary{
			{Name: "records", Value: done},
			{Name: "before", Value: before},
			{Name: "tokens", Value: tokens},
			{Name: "cut_prompts", Value: cut},
			{Name: "seconds", Value: took.Round(time.Millisecond).Seconds()},
		}, err
	})
}

// want reads what a record asks for.
func (c *generateCommand) want(o *offline.Model, r *offline.Item, most int) (*want, error) {
	prompt, messages, err := offline.ReadPrompt(r)
	if err != nil {
		return nil, err
	}
	key := "prompt"
	if messages != nil {
		key = "messages"
	}
	ids, err := o.Prompt(prompt, messages)
	if err != nil {
		return nil, r.Errorf(key, "%v", err)
	}
	w := &want{request: c.request(o.Tokenizer)}
	w.request.Seed = schemas.SampleSeed(c.Seed, 0, r.Name, 0)
	for _, option := range []struct {
		key  string
		into any
	}{{"max_tokens", &w.request.MaxNew}, {"seed", &w.request.Seed}} {
		if r.Has(option.key) {
			if err := r.Decode(option.key, "a whole number", option.into); err != nil {
				return nil, err
			}
		}
	}
	if w.request.MaxNew < 1 || w.request.MaxNew >= most {
		return nil, r.Errorf("max_tokens", "is %d; the model takes %d tokens, prompt and response", w.request.MaxNew, most)
	}
	if room := most - w.request.MaxNew; len(ids) > room {
		if c.Overlong == "reject" {
			return nil, r.Errorf(key, "has %d tokens, the model has room for %d beside %d new ones (--overlong cut keeps the last)",
				len(ids), room, w.request.MaxNew)
		}
		w.cut = len(ids) - room
		ids = ids[w.cut:]
	}
	w.request.IDs = ids
	if len(c.Stop) > 0 {
		if w.answer, err = o.Tokenizer.Answer(c.Stop...); err != nil {
			return nil, err
		}
		w.request.OnToken = func(t decode.Token) bool {
			text, stopped := w.answer.Push(t.ID)
			w.text += text
			return stopped
		}
	}
	return w, nil
}

// finish puts the response into the record.
func (c *generateCommand) finish(o *offline.Model, w *want, r *offline.Item, result decode.Result) error {
	text := o.Response(result.IDs)
	if w.answer != nil {
		text = strings.TrimPrefix(w.text+w.answer.Flush(), o.Lead)
	}
	sum := 0.0
	for _, v := range result.LogProbs {
		sum += float64(v)
	}
	err := errors.Join(r.Set("response", text), r.Set("token_ids", result.IDs), r.Set("logprob", sum),
		r.Set("finish_reason", result.Reason))
	if c.LogProbs {
		err = errors.Join(err, r.Set("token_logprobs", result.LogProbs))
	}
	if w.cut > 0 {
		err = errors.Join(err, r.Set("cut_prompt_tokens", w.cut))
	}
	return err
}
