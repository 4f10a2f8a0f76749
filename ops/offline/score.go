package offline

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/logprob"
	"github.com/ldalign/ldalign/models/tokenizer"
	"github.com/ldalign/ldalign/ops/runs"
)

// ScoreOptions are settings of Score.
type ScoreOptions struct {
	Template Template // of the model
	// Overlong says what happens to a record that is longer than the model's context: "cut" drops the first tokens of the
	// prompt, "reject" ends the job.
	Overlong string
	// Step is the number of tokens that are computed together. It does not change the results.
	Step int
}

var errNotFinite = errors.New("the model's scores are not finite: its weights are damaged, or too large for their type")

// Score adds to each record the log-probability of its response.
func Score(ctx context.Context, m *Model, files Files, o ScoreOptions) (Summary, error) {
	if o.Step < 1 {
		return nil, fmt.Errorf("%w: --step is %d", runs.ErrSettings, o.Step)
	}
	split, err := m.splitter()
	if err != nil {
		return nil, err
	}
	s := scoring{model: m, options: o, split: split, rows: map[*Item]models.Sequence{}}
	job := Job{
		Verb: "score", Window: 512, Prepare: s.prepare, Work: s.work,
		Settings: map[string]any{"verb": "score", "model": m.Name, "template": o.Template, "overlong": o.Overlong},
	}
	done, before, err := job.Run(ctx, files)
	if err != nil {
		return nil, err
	}
	return Summary{
		{"records", done},
		{"before", before},
		{"tokens", s.tokens},
		{"read_tokens", s.read},
		{"cut_prompts", s.cut},
		{"by_token_ids", s.sampled},
		{"seconds", seconds(s.took)},
	}, nil
}

// scoring is a Score in progress.
type scoring struct {
	model   *Model
	options ScoreOptions
	split   splitter
	rows    map[*Item]models.Sequence // of the window

	cut, sampled, tokens, read int
	took                       time.Duration
}

func (s *scoring) prepare(r *Item) error {
	response, err := r.Text("response")
	if err != nil {
		return err
	}
	var promptIDs []int64
	lost := 0
	responseIDs := s.model.sampledIDs(r, response)
	if responseIDs != nil {
		s.sampled++
		promptIDs, lost, err = s.model.sampledFrom(r)
	} else {
		promptIDs, responseIDs, err = s.split.record(r, response)
	}
	if err != nil {
		return err
	}
	most := s.model.Config().MaxLength()
	if over := len(promptIDs) + len(responseIDs) - most; over > 0 {
		if s.options.Overlong == "reject" || over >= len(promptIDs) {
			return r.Errorf("prompt", "has %d tokens and the response %d, the model takes %d together",
				len(promptIDs), len(responseIDs), most)
		}
		promptIDs, lost = promptIDs[over:], lost+over
	}
	if lost > 0 {
		s.cut++
		if err := r.Set("cut_prompt_tokens", lost); err != nil {
			return err
		}
	}
	s.rows[r] = models.Join(promptIDs, responseIDs)
	return nil
}

func (s *scoring) work(ctx context.Context, records []*Item, emit func(i int) error) error {
	defer clear(s.rows)
	list := make([]models.Sequence, len(records))
	for i, r := range records {
		list[i] = s.rows[r]
	}
	start := time.Now()
	logprobs, err := logprob.Tokens(ctx, s.model.Model, list, logprob.Options{Step: s.options.Step}, nil)
	s.took += time.Since(start)
	if err != nil {
		return err
	}
	sums := logprob.Sums(logprobs)
	for i, r := range records {
		s.tokens += len(logprobs[i])
		s.read += len(list[i].IDs)
		if math.IsNaN(sums[i]) || math.IsInf(sums[i], 0) {
			return fmt.Errorf("%s:%d: %w", r.File, r.Number, errNotFinite)
		}
		err := errors.Join(r.Set("logprob", sums[i]), r.Set("tokens", len(logprobs[i])), r.Set("token_logprobs", logprobs[i]))
		if err != nil {
			return err
		}
		if err := emit(i); err != nil {
			return err
		}
	}
	return nil
}

// sampledIDs returns the token_ids that Generate wrote into a record; nil if there are none or their text is not the response.
// The ids are needed because the text alone does not show how it was split into tokens, nor whether an end token followed.
func (m *Model) sampledIDs(r *Item, response string) []int64 {
	var ids []int64
	if !r.Has("token_ids") || r.Decode("token_ids", "a list of numbers", &ids) != nil || len(ids) == 0 {
		return nil
	}
	unknown := func(id int64) bool { return id < 0 || id >= int64(m.Tokenizer.Vocab()) }
	if slices.ContainsFunc(ids, unknown) || m.Response(ids) != response {
		return nil
	}
	return ids
}

// sampledFrom returns the prompt's ids of such a record, and the number of tokens that Generate cut from its beginning.
func (m *Model) sampledFrom(r *Item) (ids []int64, lost int, err error) {
	prompt, messages, err := readPrompt(r)
	if err != nil {
		return nil, 0, err
	}
	if ids, err = m.Prompt(prompt, messages); err != nil {
		return nil, 0, r.Errorf("prompt", "%v", err)
	}
	if r.Has("cut_prompt_tokens") {
		if err := r.Decode("cut_prompt_tokens", "a whole number", &lost); err != nil {
			return nil, 0, err
		}
		if lost < 0 || lost >= len(ids) {
			return nil, 0, r.Errorf("cut_prompt_tokens", "is %d of a prompt of %d tokens", lost, len(ids))
		}
	}
	return ids[lost:], lost, nil
}

// splitter tokenises a prompt and the response that follows it.
type splitter func(prompt, response string) (promptIDs, responseIDs []int64, err error)

func (m *Model) splitter() (splitter, error) {
	if m.chat {
		format, err := tokenizer.NewFormat(m.Tokenizer, tokenizer.FormatOptions{Template: "chat", System: m.system})
		if err != nil {
			return nil, err
		}
		return format.Pair, nil
	}
	return func(prompt, response string) ([]int64, []int64, error) {
		return splitRaw(m.Tokenizer, prompt, response)
	}, nil
}

// record tokenises a record's texts.
func (s splitter) record(r *Item, response string) (promptIDs, responseIDs []int64, err error) {
	prompt, err := r.Text("prompt")
	if err != nil {
		return nil, nil, err
	}
	if promptIDs, responseIDs, err = s(prompt, response); err != nil {
		err = r.Errorf("response", "%v", err)
	}
	return promptIDs, responseIDs, err
}

// splitRaw tokenises prompt + response as one text, with the special tokens that the tokenizer adds, and splits the ids.
// If a token spans the boundary, the response is tokenised on its own, provided that this gives the same text.
func splitRaw(t *tokenizer.Tokenizer, prompt, response string) (promptIDs, responseIDs []int64, err error) {
	whole, err := t.Encode(prompt+response, true)
	if err != nil {
		return nil, nil, err
	}
	before, own, _, err := t.Parts(prompt)
	if err != nil {
		return nil, nil, err
	}
	// What the tokenizer adds at the end of a text (an end token, say) is not part of a prompt that continues.
	promptIDs = slices.Concat(before, own)
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
