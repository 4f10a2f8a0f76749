package offline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"github.com/ldalign/ldalign/dataset/jsonl"
	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/reward"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/models/tokenizer"
	"github.com/ldalign/ldalign/ops/modelname"
	"github.com/ldalign/ldalign/ops/runs"
)

// RewardModel is a reward model with its tokenizer.
type RewardModel struct {
	name      string // see modelname.Folder
	engine    *tensor.Engine
	tokenizer *tokenizer.Tokenizer
	pairs     *tokenizer.Pairs
	model     *reward.Model
}

// OpenReward loads a reward model with the engine that the function engine starts; Close ends that engine.
func OpenReward(ctx context.Context, f modelname.Folder, engine func() (*tensor.Engine, error)) (_ *RewardModel, err error) {
	if f.Adapter != "" {
		return nil, fmt.Errorf("%s is an adapter: reward takes whole models only; "+
			"merge it in PEFT (merge_and_unload) and save the result", f.Adapter)
	}
	if _, err := architecture.ReadReward(os.DirFS(f.Dir)); err != nil { // first, so that an unsupported model is reported at once
		return nil, fmt.Errorf("%s: %w", f.Dir, err)
	}
	m := &RewardModel{name: f.Name}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close(ctx))
		}
	}()
	if m.tokenizer, err = tokenizer.Load(f.Dir); err != nil {
		return nil, err
	}
	if m.pairs, err = tokenizer.NewPairs(m.tokenizer, os.DirFS(f.Dir)); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Dir, err)
	}
	if m.engine, err = engine(); err != nil {
		return nil, err
	}
	if m.model, err = reward.Load(ctx, m.engine, f.Dir); err != nil {
		return nil, err
	}
	if err := m.tokenizer.Fits(m.model.Config().Vocab); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Dir, err)
	}
	return m, nil
}

// Close frees the model and ends its engine.
func (m *RewardModel) Close(ctx context.Context) error {
	var err error
	if m.model != nil {
		err = m.model.Close(context.WithoutCancel(ctx))
	}
	if m.engine != nil {
		err = errors.Join(err, m.engine.Close())
	}
	if m.tokenizer != nil {
		err = errors.Join(err, m.tokenizer.Close())
	}
	return err
}

// RewardOptions are settings of Reward.
type RewardOptions struct {
	// MaxTokens is the greatest number of tokens of prompt and response together; 0 is the model's limit.
	MaxTokens int
	// Label is the number of the model's output that is the reward; -1 for a model with a single output.
	Label int
	// Batch is the number of rows that are computed together.
	Batch int
}

// check checks the options against the model, and fills in defaults.
func (o RewardOptions) check(m *RewardModel) (RewardOptions, error) {
	cfg := m.model.Config()
	if o.MaxTokens == 0 {
		o.MaxTokens = cfg.MaxLength()
	}
	if least := m.pairs.Special() + 2; o.MaxTokens < least || o.MaxTokens > cfg.MaxLength() {
		return o, fmt.Errorf("%w: --max-tokens is %d, the model takes %d to %d", runs.ErrSettings, o.MaxTokens, least, cfg.MaxLength())
	}
	if o.Label < 0 && cfg.Labels == 1 {
		o.Label = 0
	}
	if o.Label < 0 || o.Label >= cfg.Labels {
		return o, fmt.Errorf("%w: the model has %d outputs: say which one is the reward, with --label 0 to %d",
			runs.ErrSettings, cfg.Labels, cfg.Labels-1)
	}
	if err := (reward.Options{Rows: o.Batch}).WithDefaults().Validate(); err != nil {
		return o, fmt.Errorf("%w: --batch: %w", runs.ErrSettings, err)
	}
	return o, nil
}

// Reward adds to each record the reward of its response, or of its chosen and its rejected response. The means in the summary are
// over the whole output file or, without an output file, over the printed records.
func Reward(ctx context.Context, m *RewardModel, files Files, o RewardOptions) (Summary, error) {
	o, err := o.check(m)
	if err != nil {
		return nil, err
	}
	w := rewarding{model: m, options: o, read: map[*Item]reading{}}
	job := Job{
		Verb: "reward", Window: 128, Prepare: w.prepare, Work: w.work,
		Settings: map[string]any{
			"verb": "reward", "model": m.name, "max_tokens": o.MaxTokens, "label": o.Label, "batch": o.Batch,
		},
	}
	done, before, err := job.Run(ctx, files)
	if err != nil {
		return nil, err
	}
	if files.saved() {
		if w.totals, err = readRewards(files.Output); err != nil {
			return nil, err
		}
	}
	counts := Summary{
		{"records", done}, {"before", before}, {"tokens", w.tokens}, {"truncated", w.truncated}, {"seconds", seconds(w.took)},
	}
	return append(counts, w.totals.counts()...), nil
}

// rewarding is a Reward in progress.
type rewarding struct {
	model   *RewardModel
	options RewardOptions
	read    map[*Item]reading // of the window

	tokens, truncated int
	took              time.Duration
	totals            rewardTotals
}

// reading holds the model's inputs for a record: one sequence, or those of chosen and rejected.
type reading struct {
	rows []models.Sequence
	cut  bool
}

func (w *rewarding) prepare(r *Item) error {
	prompt, err := r.Text("prompt")
	if err != nil {
		return err
	}
	keys := []string{"response"}
	if r.Has("chosen") || r.Has("rejected") {
		keys = []string{"chosen", "rejected"}
	}
	var out reading
	for _, key := range keys {
		text, err := r.Text(key)
		if err != nil {
			return err
		}
		tokens, err := w.model.pairs.Encode(prompt, text, w.options.MaxTokens)
		if err != nil {
			return r.Errorf(key, "%v", err)
		}
		out.rows = append(out.rows, models.Sequence{IDs: tokens.IDs, PromptLen: tokens.First})
		out.cut = out.cut || tokens.Cut > 0
	}
	w.read[r] = out
	return nil
}

func (w *rewarding) work(ctx context.Context, records []*Item, emit func(i int) error) error {
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
	return w.model.model.Outputs(ctx, rows, reward.Options{Rows: w.options.Batch}, func(row int, values []float32) error {
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
func (w *rewarding) finish(r *Item, logits [][]float32) error {
	rewards, tokens := make([]float64, len(logits)), 0
	for i, values := range logits {
		for _, v := range values {
			if v := float64(v); math.IsNaN(v) || math.IsInf(v, 0) {
				return fmt.Errorf("%s:%d: %w", r.File, r.Number, errNotFinite)
			}
		}
		rewards[i] = float64(values[w.options.Label])
		tokens += len(w.read[r].rows[i].IDs)
	}
	w.tokens += tokens
	if w.read[r].cut {
		w.truncated++
	}
	several := len(logits[0]) > 1
	fields := []Count{{"reward", logits[0][w.options.Label]}}
	if several {
		fields = append(fields, Count{"logits", logits[0]})
	}
	if len(logits) > 1 {
		fields = []Count{
			{"reward_chosen", logits[0][w.options.Label]},
			{"reward_rejected", logits[1][w.options.Label]},
			{"margin", rewards[0] - rewards[1]},
		}
		if several {
			fields = append(fields, Count{"logits_chosen", logits[0]}, Count{"logits_rejected", logits[1]})
		}
		w.totals.pair(rewards[0], rewards[1])
	} else {
		w.totals.single.add(rewards[0])
	}
	fields = append(fields, Count{"tokens", tokens}, Count{"truncated", w.read[r].cut})
	for _, f := range fields {
		if err := r.Set(f.Name, f.Value); err != nil {
			return err
		}
	}
	return nil
}

// moments computes the mean and the spread of numbers, by Welford's recurrence.
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

// counts returns mean_NAME and, for two or more numbers, sd_NAME, the sample standard deviation.
func (m *moments) counts(name string) Summary {
	if m.n == 0 {
		return nil
	}
	list := []Count{{"mean_" + name, digits(m.mean)}}
	if m.n > 1 {
		list = append(list, Count{"sd_" + name, digits(math.Sqrt(m.sums / float64(m.n-1)))})
	}
	return list
}

// digits rounds a number of a summary to six decimals.
func digits(x float64) float64 { return math.Round(x*1e6) / 1e6 }

// rewardTotals sums up all rewards for the summary.
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

func (t *rewardTotals) counts() Summary {
	list := t.single.counts("reward")
	if t.margin.n > 0 {
		list = append(list, t.chosen.counts("chosen")...)
		list = append(list, t.rejected.counts("rejected")...)
		list = append(list, t.margin.counts("margin")...)
		list = append(list, Count{"chosen_preferred", digits(float64(t.preferred) / float64(t.margin.n))})
	}
	return list
}

// readRewards sums up the rewards in an output file.
func readRewards(path string) (t rewardTotals, err error) {
	in, err := jsonl.Open(path)
	if err != nil {
		return t, err
	}
	defer in.Close()
	for {
		r, err := in.Next()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return t, err
		}
		var values [2]float64
		keys := []string{"reward"}
		if r.Has("margin") {
			keys = []string{"reward_chosen", "reward_rejected"}
		}
		for i, key := range keys {
			if err := r.Decode(key, "a number", &values[i]); err != nil {
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
