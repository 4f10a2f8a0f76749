package offline

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/models/tokenizer"
	"github.com/ldalign/ldalign/ops/modelname"
	"github.com/ldalign/ldalign/ops/runs"
)

// Template says how a prompt becomes the model's input. Without Raw and Chat, the model's chat template is used if it has one.
type Template struct {
	Raw    bool
	Chat   bool
	System string // message before every prompt
}

// Model is a language model that is ready to generate and score.
type Model struct {
	*models.Model
	Tokenizer *tokenizer.Tokenizer
	// Name identifies the weights, see modelname.Folder.
	Name string
	// Lead is the text that the template writes before an answer. It is not part of a response.
	Lead string

	engine *tensor.Engine
	chat   bool
	system string
}

// Open loads a model with the engine that the function engine starts; Close ends that engine. Open merges an adapter into the
// weights, and packs the weights if possible.
func Open(ctx context.Context, f modelname.Folder, t Template, engine func() (*tensor.Engine, error)) (_ *Model, err error) {
	m := &Model{Name: f.Name, system: t.System}
	cfg, err := architecture.ReadConfig(os.DirFS(f.Dir)) // first, so that an unsupported model is reported at once
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Dir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close(ctx))
		}
	}()
	if m.Tokenizer, err = openTokenizer(f); err != nil {
		return nil, err
	}
	if err := m.Tokenizer.Fits(cfg.Vocab); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Dir, err)
	}
	if m.chat = t.Chat || (!t.Raw && m.Tokenizer.HasTemplate()); m.chat {
		if _, err := tokenizer.NewFormat(m.Tokenizer, tokenizer.FormatOptions{Template: "chat", System: t.System}); err != nil {
			return nil, fmt.Errorf("%s: %w (--raw needs no template)", f.Dir, err)
		}
		m.Lead = m.Tokenizer.Lead()
	}
	if t.System != "" && !m.chat {
		return nil, fmt.Errorf("%w: --system needs a chat template", runs.ErrSettings)
	}
	if m.engine, err = engine(); err != nil {
		return nil, err
	}
	m.Model, err = load(ctx, m.engine, f)
	return m, err
}

func openTokenizer(f modelname.Folder) (*tokenizer.Tokenizer, error) {
	files, dir := f.TokenizerFiles()
	t, err := tokenizer.FromFS(files)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", dir, err)
	}
	return t, nil
}

func load(ctx context.Context, engine *tensor.Engine, f modelname.Folder) (*models.Model, error) {
	m, err := models.Load(ctx, engine, f.Dir, models.Options{Packed: f.Adapter == ""})
	if err != nil || f.Adapter == "" {
		return m, err
	}
	if err = m.LoadAdapter(ctx, f.Adapter); err == nil {
		err = m.MergeAdapter(ctx)
	}
	if err == nil {
		err = m.Pack(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, m.Close(context.WithoutCancel(ctx)))
	}
	return m, nil
}

// Close frees the model and ends its engine.
func (m *Model) Close(ctx context.Context) error {
	var err error
	if m.Model != nil {
		err = m.Model.Close(context.WithoutCancel(ctx))
	}
	if m.engine != nil {
		err = errors.Join(err, m.engine.Close())
	}
	if m.Tokenizer != nil {
		err = errors.Join(err, m.Tokenizer.Close())
	}
	return err
}

// Prompt returns the ids from which generation starts: those of messages if there are any, else those of prompt.
func (m *Model) Prompt(prompt string, messages []tokenizer.Message) ([]int64, error) {
	if !m.chat {
		if messages != nil {
			return nil, errors.New("messages need a chat template; with --raw give prompt")
		}
		ids, err := m.Tokenizer.Encode(prompt, true)
		if err == nil && len(ids) == 0 {
			err = errors.New("prompt has no tokens, and the tokenizer adds none")
		}
		return ids, err
	}
	if messages == nil {
		messages = []tokenizer.Message{{Role: "user", Content: prompt}}
	}
	if m.system != "" {
		messages = append([]tokenizer.Message{{Role: "system", Content: m.system}}, messages...)
	}
	text, err := m.Tokenizer.Render(messages, true)
	if err != nil {
		return nil, err
	}
	return m.Tokenizer.Encode(text, false)
}

// Response returns the text of sampled ids, without the lead that the template writes.
func (m *Model) Response(ids []int64) string {
	return strings.TrimPrefix(m.Tokenizer.Decode(ids, true), m.Lead)
}

// readPrompt returns a record's prompt or its messages.
func readPrompt(r *Item) (prompt string, messages []tokenizer.Message, err error) {
	if !r.Has("messages") {
		prompt, err = r.Text("prompt")
		return prompt, nil, err
	}
	err = r.Decode("messages", "a list of objects with role and content", &messages)
	if err == nil && len(messages) == 0 {
		err = r.Errorf("messages", "is empty")
	}
	return "", messages, err
}
