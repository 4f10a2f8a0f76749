package offline

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ldalign/ldalign/dataset"
	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/models/tokenizer"
	"github.com/ldalign/ldalign/ops/modelname"
	"github.com/ldalign/ldalign/ops/runs"
)

func newEngine() (*tensor.Engine, error) { return tensor.NewEngine(tensor.Options{Threads: 1}) }

// tiny is an open model of random weights with the demo's tokenizer, for sequences of 64 tokens.
func tiny(t *testing.T, template Template) *Model {
	t.Helper()
	ctx, dir := t.Context(), t.TempDir()
	if err := os.CopyFS(dir, dataset.DemoTokenizer()); err != nil {
		t.Fatal(err)
	}
	words, err := tokenizer.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	cfg := architecture.Config{
		Family: architecture.Llama, Vocab: words.Vocab(), Hidden: 16, Layers: 2, Heads: 2, Intermediate: 32, MaxPositions: 64,
		TieEmbeddings: true, InitializerRange: 0.3, EOS: words.EOS(),
	}.WithDefaults()
	engine, err := newEngine()
	if err := errors.Join(err, words.Close()); err != nil {
		t.Fatal(err)
	}
	made, err := models.Scratch(ctx, engine, cfg, 5)
	if err != nil {
		t.Fatal(err)
	}
	var weights bytes.Buffer
	config, err := cfg.JSON()
	err = errors.Join(err, made.WriteWeights(ctx, &weights), made.Close(ctx), engine.Close(),
		os.WriteFile(filepath.Join(dir, "config.json"), config, 0o644),
		os.WriteFile(filepath.Join(dir, "model.safetensors"), weights.Bytes(), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	m, err := Open(ctx, modelname.Folder{Dir: dir, Name: "tiny"}, template, newEngine)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return m
}

// What is generated is scored, by the ids that were sampled, as what it was sampled as.
func TestGenerateAndScore(t *testing.T) {
	ctx, dir, m := t.Context(), t.TempDir(), tiny(t, Template{})
	in, answers, scores := filepath.Join(dir, "in.jsonl"), filepath.Join(dir, "answers.jsonl"), filepath.Join(dir, "scores.jsonl")
	write(t, in, `{"id": 1, "prompt": "Name a colour."}`+"\n"+`{"id": 2, "messages": [{"role": "user", "content": "Hi"}]}`+"\n")
	options := GenerateOptions{Sampling: Sampling{MaxTokens: 5, IgnoreEOS: true, TopP: 1}, Overlong: "cut", Memory: 16, Prefill: 8}
	summary, err := Generate(ctx, m, files(t, in, answers), options)
	if err != nil || summary[0] != (Count{"records", 2}) || summary[2] != (Count{"tokens", 10}) {
		t.Errorf("%v, %v", summary, err)
	}
	prompt := strings.Replace(read(t, answers), `"messages":[{"role": "user", "content": "Hi"}]`, `"prompt":"Hi"`, 1)
	write(t, answers, prompt)
	summary, err = Score(ctx, m, files(t, answers, scores), ScoreOptions{Overlong: "cut", Step: 16})
	if err != nil || summary[0] != (Count{"records", 2}) || summary[5] != (Count{"by_token_ids", 2}) {
		t.Errorf("%v, %v", summary, err)
	}
	for name, o := range map[string]GenerateOptions{
		"--max-tokens":       {Sampling: Sampling{MaxTokens: 64, TopP: 1}, Memory: 16, Prefill: 8},
		"--stop":             {Sampling: Sampling{Stop: []string{""}, TopP: 1}, Memory: 16, Prefill: 8},
		"temperature":        {Sampling: Sampling{Temperature: -1, TopP: 1}, Memory: 16, Prefill: 8},
		"--slots -1":         {Sampling: Sampling{TopP: 1}, Slots: -1, Memory: 16, Prefill: 8},
		"written with other": {Sampling: Sampling{MaxTokens: 6, TopP: 1}, Overlong: "cut", Memory: 16, Prefill: 8},
	} {
		if _, err := Generate(ctx, m, files(t, in, answers), o); !errors.Is(err, runs.ErrSettings) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: the error is %v", name, err)
		}
	}
}

func TestConversation(t *testing.T) {
	ctx, m := t.Context(), tiny(t, Template{Chat: true})
	c, err := NewConversation(m, Sampling{MaxTokens: 4, IgnoreEOS: true, TopP: 1}, "")
	if err != nil {
		t.Fatal(err)
	}
	dropped, shown := 0, ""
	ask := func(text string) (Reply, error) {
		shown = ""
		return c.Ask(ctx, text, func(n int) { dropped += n }, func(text string) { shown += text })
	}
	reply, err := ask("Name a colour.")
	if err != nil || reply.Tokens != 4 || reply.Reason != "length" || strings.TrimPrefix(shown, m.Lead) != reply.Text || len(c.Messages()) != 2 {
		t.Errorf("%+v, %v; shown %q; %d messages", reply, err, shown, len(c.Messages()))
	}
	before := c.Messages()
	var bad *AskError
	if _, err := ask(strings.Repeat("colour ", 60)); !errors.As(err, &bad) || !errors.Is(err, ErrTooLong) {
		t.Errorf("a message beyond the context: %v", err)
	}
	if got := c.Messages(); len(got) != len(before) || dropped != 0 {
		t.Errorf("a refused message has changed the conversation: %v", got)
	}
	for range 8 {
		if _, err := ask("Name a colour."); err != nil {
			t.Fatal(err)
		}
	}
	if dropped == 0 || len(c.Messages()) == 18 {
		t.Errorf("%d messages dropped, %d are there", dropped, len(c.Messages()))
	}
	if c.SetSystem("Be brief."); len(c.Messages()) != 1 || c.Messages()[0].Role != "system" {
		t.Errorf("after a new system message: %v", c.Messages())
	}
}
