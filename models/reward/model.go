package reward

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/safetensors"
	"github.com/ldalign/ldalign/models/tensor"
)

// Model is a reward model whose weights live on an engine. Methods that take a context use the engine themselves and must
// not be called inside Engine.Do; methods that take a scope are called inside it.
type Model struct {
	eng  *tensor.Engine
	kept []*tensor.Tensor
	net  *network
}

// Load reads a Hugging Face folder: config.json and model.safetensors, or the shards of model.safetensors.index.json.
// Weights of another type become Float32. Errors wrap models.ErrConfig, models.ErrWeights, the errors of safetensors, or
// fs.ErrNotExist, and name the folder.
func Load(ctx context.Context, eng *tensor.Engine, dir string) (*Model, error) {
	cfg, err := ReadConfig(os.DirFS(dir))
	if err != nil {
		return nil, fmt.Errorf("reward: load %s: %w", dir, err)
	}
	files, err := safetensors.OpenModel(dir)
	if err != nil {
		return nil, fmt.Errorf("reward: load %s: %w", dir, err)
	}
	defer files.Close()
	m, err := Read(ctx, eng, cfg, files)
	if err != nil {
		return nil, fmt.Errorf("reward: load %s: %w", dir, err)
	}
	return m, nil
}

// Read makes a model of a configuration with the weights of src. Errors are those of Load; on an error nothing stays on
// the engine.
func Read(ctx context.Context, eng *tensor.Engine, cfg Config, src models.Source) (_ *Model, err error) {
	if err := fits(cfg, src); err != nil {
		return nil, err
	}
	m := &Model{eng: eng}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close(context.WithoutCancel(ctx)))
		}
	}()
	byName := map[string]*tensor.Tensor{}
	for _, w := range weights(cfg) {
		err := eng.Do(ctx, func(s *tensor.Scope) error {
			t, err := models.ReadTensor(s, src, w.name, tensor.Float32, w.shape...)
			if err != nil || s.Err() != nil {
				return err
			}
			m.kept = append(m.kept, t.Keep())
			byName[w.name] = t
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.name, err)
		}
	}
	m.net = newNetwork(cfg, byName)
	return m, nil
}

// fits tells which weights are missing, unknown or of another shape.
func fits(cfg Config, src models.Source) error {
	found := map[string]safetensors.Info{}
	for _, info := range src.Tensors() {
		found[info.Name] = info
	}
	var problems []string
	for _, w := range weights(cfg) {
		info, ok := found[w.name]
		switch {
		case !ok:
			problems = append(problems, w.name+" is missing")
		case !slices.Equal(info.Shape, w.shape):
			problems = append(problems, fmt.Sprintf("%s is %v, want %v", w.name, info.Shape, w.shape))
		}
		delete(found, w.name)
	}
	for _, info := range src.Tensors() {
		if _, left := found[info.Name]; left && !unused(cfg, info.Name) {
			problems = append(problems, info.Name+" is unknown")
		}
	}
	const most = 5
	if n := len(problems); n > most {
		problems = append(problems[:most:most], fmt.Sprintf("and %d more", n-most))
	}
	if len(problems) > 0 {
		return fmt.Errorf("%w: %s", models.ErrWeights, strings.Join(problems, "; "))
	}
	return nil
}

// unused tells the tensors of a file that are no part of the computation: a buffer, and what pre-training has left.
func unused(cfg Config, name string) bool {
	return name == "deberta.embeddings.position_ids" || strings.HasPrefix(name, "lm_predictions.") ||
		strings.HasPrefix(name, "mask_predictions.") ||
		(!cfg.Absolute && name == "deberta.embeddings.position_embeddings.weight")
}

// Close frees the model's tensors. It may be called after the engine was closed.
func (m *Model) Close(ctx context.Context) error {
	err := m.eng.Do(ctx, func(*tensor.Scope) error {
		for _, t := range m.kept {
			t.Free()
		}
		m.kept = nil
		return nil
	})
	if errors.Is(err, tensor.ErrClosed) { // it freed everything
		return nil
	}
	return err
}

// Config is the model's configuration.
func (m *Model) Config() Config { return m.net.cfg }

// Engine is the engine that the model's weights live on.
func (m *Model) Engine() *tensor.Engine { return m.eng }

// Logits are the outputs of the model's head for a padded batch -> [pad.Rows, Labels], whatever for rows that pad adds.
// A row's PromptLen counts the tokens of the first segment, [CLS] prompt [SEP]. Rows that do not fit make s fail with
// models.ErrSequence. Call it within NoGrad.
func (m *Model) Logits(s *tensor.Scope, rows []models.Sequence, pad PadRule) *tensor.Tensor {
	in, err := m.net.input(s, rows, pad)
	if err != nil {
		s.Fail(err)
		return s.Zeros(tensor.Float32) // invalid, as everything in a failed scope
	}
	return m.net.logits(s, in)
}
