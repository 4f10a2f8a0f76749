package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/reward"
	"github.com/ldalign/ldalign/models/tokenizer"
)

type rewardCommand struct {
	modelFlags
	Input     string `help:"JSON lines with prompt and response, or prompt, chosen and rejected; - is standard input." required:"" placeholder:"FILE"`
	Out       string `help:"JSON lines to write; started again, the verb goes on behind what is there." placeholder:"FILE"`
	MaxTokens int    `help:"Most tokens of prompt and response together; the longer of both is cut first. 0 is what the model takes." default:"0" placeholder:"N"`
	Label     int    `help:"Which output of the model is the reward, from 0; needed for a model with several." default:"-1" placeholder:"N"`
	Batch     int    `help:"Rows that are computed together, a multiple of 4. It changes speed, memory and the last bits of the numbers." default:"4" placeholder:"N"`
}

func (rewardCommand) Help() string {
	return `Example:

    ldalign reward --model ./reward-model-deberta-v3-large-v2 --input pairs.jsonl --out rewards.jsonl

The model is a DeBERTa-v2 or -v3 for sequence classification with its tokenizer, as transformers saves it; a whole one, no
adapter.

A line in is {"id": …, "prompt": "…", "response": "…"}; a line out adds reward (higher is better), tokens and truncated. A
line in with "chosen" and "rejected" gets reward_chosen, reward_rejected and margin, their difference. A bad line is told by
file, line and key, and ends the verb behind the lines before it. Ctrl-C ends it behind the batch at hand; with --out the
same command goes on there. docs/models.md has the whole of it.`
}

func (c *rewardCommand) Run(ctx context.Context, e *env) (err error) {
	m, err := e.loadReward(ctx, c.modelFlags)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close(ctx)) }()
	if err := c.check(m); err != nil {
		return err
	}
	work := rewarding{
		model: m, most: c.MaxTokens, label: c.Label, opts: reward.Options{Rows: c.Batch}, read: map[*converted]reading{},
	}
	job := conversion{
		verb: "reward", unit: "records", input: c.Input, output: c.Out, window: 128,
		settings: map[string]any{
			"verb": "reward", "model": m.name, "max_tokens": c.MaxTokens, "label": c.Label, "batch": c.Batch,
		},
		prepare: work.prepare, work: work.work,
	}
	done, before, err := e.convert(ctx, job)
	if err := job.ended(err, done, before); err != nil {
		return err
	}
	if c.Out != "" && c.Out != "-" { // of the whole file
		if work.totals, err = readRewards(c.Out); err != nil {
			return err
		}
	}
	counts := []count{
		{"records", done}, {"before", before}, {"tokens", work.tokens}, {"truncated", work.truncated}, {"seconds", round(work.took)},
	}
	return e.summary("reward", append(counts, work.totals.counts()...)...)
}

// check looks at the flags, and fills in what the model says.
func (c *rewardCommand) check(m *rewardModel) error {
	cfg := m.model.Config()
	if c.MaxTokens == 0 {
		c.MaxTokens = cfg.MaxLength()
	}
	if least := m.pairs.Special() + 2; c.MaxTokens < least || c.MaxTokens > cfg.MaxLength() {
		return fmt.Errorf("%w: --max-tokens is %d, the model takes %d to %d", errUsage, c.MaxTokens, least, cfg.MaxLength())
	}
	if c.Label < 0 && cfg.Labels == 1 {
		c.Label = 0
	}
	if c.Label < 0 || c.Label >= cfg.Labels {
		return fmt.Errorf("%w: the model has %d outputs: name the one that is the reward, --label 0 to %d",
			errUsage, cfg.Labels, cfg.Labels-1)
	}
	if err := (reward.Options{Rows: c.Batch}).WithDefaults().Validate(); err != nil {
		return fmt.Errorf("%w: --batch: %w", errUsage, err)
	}
	return nil
}

// rewardModel is a reward model with its tokenizer.
type rewardModel struct {
	name      string // see modelPlace
	closers   []func(context.Context) error
	tokenizer *tokenizer.Tokenizer
	pairs     *tokenizer.Pairs
	model     *reward.Model
}

func (e *env) loadReward(ctx context.Context, f modelFlags) (_ *rewardModel, err error) {
	place, err := e.findModel(ctx, f.Model, f.serverFlags)
	if err != nil {
		return nil, err
	}
	if place.adapter != "" {
		return nil, fmt.Errorf("%s is an adapter: reward takes whole models only; "+
			"merge it in PEFT (merge_and_unload) and save the result", place.adapter)
	}
	dir := place.dir
	if _, err := reward.ReadConfig(os.DirFS(dir)); err != nil { // told before all else
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	m := &rewardModel{name: place.name}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.close(ctx))
		}
	}()
	if m.tokenizer, err = tokenizer.Load(dir); err != nil {
		return nil, err
	}
	m.closers = append(m.closers, func(context.Context) error { return m.tokenizer.Close() })
	if m.pairs, err = tokenizer.NewPairs(m.tokenizer, os.DirFS(dir)); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	engine, err := f.engine()
	if err != nil {
		return nil, err
	}
	m.closers = append(m.closers, func(context.Context) error { return engine.Close() })
	if m.model, err = reward.Load(ctx, engine, dir); err != nil {
		return nil, err
	}
	m.closers = append(m.closers, m.model.Close)
	return m, sameVocabulary(dir, m.tokenizer, m.model.Config().Vocab)
}

// close closes everything in the reverse order of opening.
func (m *rewardModel) close(ctx context.Context) error {
	var err error
	for i := len(m.closers) - 1; i >= 0; i-- {
		err = errors.Join(err, m.closers[i](context.WithoutCancel(ctx)))
	}
	return err
}

// rewarding is what is done with the records.
type rewarding struct {
	model       *rewardModel
	most, label int
	opts        reward.Options
	read        map[*converted]reading // of the window

	tokens, truncated int
	took              time.Duration
	totals            rewardTotals
}

// reading is what the model reads of a record: one sequence, or those of chosen and rejected.
type reading struct {
	rows []models.Sequence
	cut  bool
}

func (w *rewarding) prepare(r *converted) error {
	prompt, err := r.text("prompt")
	if err != nil {
		return err
	}
	keys := []string{"response"}
	if r.has("chosen") || r.has("rejected") {
		keys = []string{"chosen", "rejected"}
	}
	var out reading
	for _, key := range keys {
		text, err := r.text(key)
		if err != nil {
			return err
		}
		tokens, err := w.model.pairs.Encode(prompt, text, w.most)
		if err != nil {
			return r.fail(key, "%v", err)
		}
		out.rows = append(out.rows, models.Sequence{IDs: tokens.IDs, PromptLen: tokens.First})
		out.cut = out.cut || tokens.Cut > 0
	}
	w.read[r] = out
	return nil
}

func (w *rewarding) work(ctx context.Context, records []*converted, emit func(i int) error) error {
	defer clear(w.read)
	var rows []models.Sequence
	type place struct{ record, row int }
	var places []place // of each row
	logits, left := make([][][]float32, len(records)), make([]int, len(records))
	for i, r := range records {
		own := w.read[r].rows
		logits[i], left[i] = make([][]float32, len(own)), len(own)
		for j, row := range own {
			rows, places = append(rows, row), append(places, place{i, j})
		}
	}
	start := time.Now()
	defer func() { w.took += time.Since(start) }()
	return w.model.model.Score(ctx, rows, w.opts, func(row int, values []float32) error {
		i := places[row].record
		logits[i][places[row].row] = values
		if left[i]--; left[i] > 0 {
			return nil
		}
		if err := w.finish(records[i], logits[i]); err != nil {
			return err
		}
		return emit(i)
	})
}

// finish puts the rewards into the record.
func (w *rewarding) finish(r *converted, logits [][]float32) error {
	rewards, tokens := make([]float64, len(logits)), 0
	for i, values := range logits {
		for _, v := range values {
			if v := float64(v); math.IsNaN(v) || math.IsInf(v, 0) {
				return fmt.Errorf("%s:%d: %w", r.File, r.Number, errNotFinite)
			}
		}
		rewards[i] = float64(values[w.label])
		tokens += len(w.read[r].rows[i].IDs)
	}
	w.tokens += tokens
	if w.read[r].cut {
		w.truncated++
	}
	several := len(logits[0]) > 1
	fields := []count{{"reward", logits[0][w.label]}}
	if several {
		fields = append(fields, count{"logits", logits[0]})
	}
	if len(logits) > 1 {
		fields = []count{
			{"reward_chosen", logits[0][w.label]}, {"reward_rejected", logits[1][w.label]}, {"margin", rewards[0] - rewards[1]},
		}
		if several {
			fields = append(fields, count{"logits_chosen", logits[0]}, count{"logits_rejected", logits[1]})
		}
		w.totals.pair(rewards[0], rewards[1])
	} else {
		w.totals.single.add(rewards[0])
	}
	fields = append(fields, count{"tokens", tokens}, count{"truncated", w.read[r].cut})
	for _, f := range fields {
		if err := r.set(f.name, f.value); err != nil {
			return err
		}
	}
	return nil
}

// moments are the mean and the spread of numbers, by Welford's recurrence.
type moments struct {
	n          int
	mean, sums float64
}

func (m *moments) add(x float64) {
	m.n++
	d := x - m.mean
	m.mean += d / float64(m.n)
	m.sums += d * (x - m.mean)
}

// counts are mean_NAME and, from two numbers on, sd_NAME, the standard deviation of a sample.
func (m *moments) counts(name string) []count {
	if m.n == 0 {
		return nil
	}
	list := []count{{"mean_" + name, digits(m.mean)}}
	if m.n > 1 {
		list = append(list, count{"sd_" + name, digits(math.Sqrt(m.sums / float64(m.n-1)))})
	}
	return list
}

// digits is a number of a summary, to the sixth decimal.
func digits(x float64) float64 { return math.Round(x*1e6) / 1e6 }

// rewardTotals are what the summary tells of all rewards.
type rewardTotals struct {
	single, chosen, rejected, margin moments
	preferred                        int // pairs whose margin is above 0
}

func (t *rewardTotals) pair(chosen, rejected float64) {
	t.chosen.add(chosen)
	t.rejected.add(rejected)
	t.margin.add(chosen - rejected)
	if chosen > rejected {
		t.preferred++
	}
}

func (t *rewardTotals) counts() []count {
	list := t.single.counts("reward")
	if t.margin.n > 0 {
		list = append(list, t.chosen.counts("chosen")...)
		list = append(list, t.rejected.counts("rejected")...)
		list = append(list, t.margin.counts("margin")...)
		list = append(list, count{"chosen_preferred", digits(float64(t.preferred) / float64(t.margin.n))})
	}
	return list
}

// readRewards adds up what an output file says.
func readRewards(path string) (t rewardTotals, err error) {
	in, err := openRecords(path)
	if err != nil {
		return t, err
	}
	defer in.Close()
	for {
		r, err := in.next()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return t, err
		}
		var values [2]float64
		keys := []string{"reward"}
		if r.has("margin") {
			keys = []string{"reward_chosen", "reward_rejected"}
		}
		for i, key := range keys {
			if err := r.into(key, "a number", &values[i]); err != nil {
				return t, err
			}
		}
		if len(keys) == 1 {
			t.single.add(values[0])
		} else {
			t.pair(values[0], values[1])
		}
	}
}
