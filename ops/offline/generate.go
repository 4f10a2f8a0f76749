package offline

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ldalign/ldalign/models/decode"
	"github.com/ldalign/ldalign/models/tokenizer"
	"github.com/ldalign/ldalign/ops/progress"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/schemas"
)

// GenerateOptions are settings of Generate. Slots, Memory and Prefill do not change the texts.
type GenerateOptions struct {
	Template Template // of the model
	Sampling Sampling
	// Overlong says what happens to a prompt that leaves too little of the model's context: "cut" keeps its last tokens,
	// "reject" ends the job.
	Overlong string
	// Slots is how many rows decode together; 0 is as many as Memory allows, up to 64.
	Slots int
	// Memory is the limit for keys and values, in MiB.
	Memory int64
	// Prefill is the greatest number of prompt tokens in one step.
	Prefill int
	// LogProbs writes the log-probability of each token too.
	LogProbs bool
}

// Generate adds to each record the response that the model samples.
func Generate(ctx context.Context, m *Model, files Files, o GenerateOptions) (Summary, error) {
	var err error
	if o.Sampling, err = o.Sampling.check(m.Config().MaxLength()); err != nil {
		return nil, err
	}
	if o.Slots < 0 || o.Memory < 1 || o.Prefill < 1 {
		return nil, fmt.Errorf("%w: --slots %d, --memory %d, --prefill %d", runs.ErrSettings, o.Slots, o.Memory, o.Prefill)
	}
	g := generating{model: m, options: o, size: decode.Options{Prefill: o.Prefill}, wants: map[*Item]*want{}}
	job := Job{
		Verb: "generate", Window: 1024, Prepare: g.prepare, Work: g.work,
		Began: func(t *progress.Task) { g.task = t },
		Settings: map[string]any{
			"verb": "generate", "model": m.Name, "sampling": o.Sampling, "template": o.Template, "overlong": o.Overlong,
			"logprobs": o.LogProbs,
		},
	}
	done, before, err := job.Run(ctx, files)
	if err != nil {
		return nil, err
	}
	return Summary{
		{"records", done}, {"before", before}, {"tokens", g.tokens}, {"cut_prompts", g.cut}, {"seconds", seconds(g.took)},
	}, nil
}

// generating is a Generate in progress.
type generating struct {
	model   *Model
	options GenerateOptions
	size    decode.Options
	wants   map[*Item]*want // of the window
	task    *progress.Task

	cut, tokens int
	sampled     int // tokens, including those of unfinished responses
	took        time.Duration
}

// want is what a record asks for.
type want struct {
	request decode.Request
	answer  *tokenizer.Answer // nil without a stop text
	text    string
	cut     int
}

func (g *generating) prepare(r *Item) error {
	prompt, messages, err := readPrompt(r)
	if err != nil {
		return err
	}
	key := "prompt"
	if messages != nil {
		key = "messages"
	}
	ids, err := g.model.Prompt(prompt, messages)
	if err != nil {
		return r.Errorf(key, "%v", err)
	}
	w := &want{request: g.options.Sampling.request(g.model.Tokenizer)}
	w.request.Seed = schemas.SampleSeed(g.options.Sampling.Seed, 0, r.Name, 0)
	for _, option := range []struct {
		key  string
		into any
	}{{"max_tokens", &w.request.MaxNew}, {"seed", &w.request.Seed}} {
		if r.Has(option.key) {
			if err := r.Decode(option.key, "a whole number", option.into); err != nil {
				return err
			}
		}
	}
	most := g.model.Config().MaxLength()
	if w.request.MaxNew < 1 || w.request.MaxNew >= most {
		return r.Errorf("max_tokens", "is %d; the model takes %d tokens, prompt and response", w.request.MaxNew, most)
	}
	if room := most - w.request.MaxNew; len(ids) > room {
		if g.options.Overlong == "reject" {
			return r.Errorf(key, "has %d tokens, the model has room for %d beside %d new ones (--overlong cut keeps the last tokens)",
				len(ids), room, w.request.MaxNew)
		}
		w.cut = len(ids) - room
		ids = ids[w.cut:]
	}
	w.request.IDs = ids
	if stop := g.options.Sampling.Stop; len(stop) > 0 {
		if w.answer, err = g.model.Tokenizer.Answer(stop...); err != nil {
			return err
		}
		w.request.OnToken = func(t decode.Token) bool {
			text, stopped := w.answer.Push(t.ID)
			w.text += text
			return stopped
		}
	}
	g.wants[r] = w
	return nil
}

func (g *generating) work(ctx context.Context, records []*Item, emit func(i int) error) (err error) {
	defer clear(g.wants)
	for _, r := range records {
		request := g.wants[r].request
		g.size.Length = max(g.size.Length, len(request.IDs)+request.MaxNew)
	}
	g.size.Slots = g.options.Slots
	if g.size.Slots == 0 {
		g.size.Slots = g.size.SlotsFor(g.model.Model, g.options.Memory<<20, min(64, len(records)))
	}
	scheduler, err := decode.New(g.size, decode.Weights{Model: g.model.Model})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, scheduler.Close(ctx)) }()
	start := time.Now()
	defer func() { g.took += time.Since(start) }()
	next := 0
	return scheduler.Feed(ctx,
		func() (decode.Request, bool, error) {
			if next == len(records) {
				return decode.Request{}, false, nil
			}
			request := g.wants[records[next]].request
			next++
			ends := request.OnToken
			request.OnToken = func(t decode.Token) bool { // show progress before the first record is done
				g.sampled++
				g.task.Note("tokens", g.sampled)
				g.task.Note("tokens/s", fmt.Sprintf("%.1f", float64(g.sampled)/(g.took+time.Since(start)).Seconds()))
				return ends != nil && ends(t)
			}
			return request, true, nil
		},
		func(i int, result decode.Result) error {
			if result.Err != nil {
				return fmt.Errorf("record %s: %w", records[i].Name, result.Err)
			}
			if err := g.finish(records[i], result); err != nil {
				return err
			}
			return emit(i)
		})
}

// finish puts the response into the record.
func (g *generating) finish(r *Item, result decode.Result) error {
	w := g.wants[r]
	g.tokens += len(result.IDs)
	text := g.model.Response(result.IDs)
	if w.answer != nil {
		text = strings.TrimPrefix(w.text+w.answer.Flush(), g.model.Lead)
	}
	sum := 0.0
	for _, v := range result.LogProbs {
		sum += float64(v)
	}
	err := errors.Join(r.Set("response", text), r.Set("token_ids", result.IDs), r.Set("logprob", sum),
		r.Set("finish_reason", result.Reason))
	if g.options.LogProbs {
		err = errors.Join(err, r.Set("token_logprobs", result.LogProbs))
	}
	if w.cut > 0 {
		g.cut++
		err = errors.Join(err, r.Set("cut_prompt_tokens", w.cut))
	}
	return err
}
