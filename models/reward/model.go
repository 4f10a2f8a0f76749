package reward

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
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
// Weights of another type become Float32. Errors wrap architecture.ErrConfig, architecture.ErrWeights, the errors of
// safetensors, or fs.ErrNotExist, and name the folder.
func Load(ctx context.Context, eng *tensor.Engine, dir string) (*Model, error) {
	cfg, err := architecture.ReadReward(os.DirFS(dir))
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

// Read returns a model with a configuration and the weights in src. Errors are those of Load. If it fails, it leaves nothing
// on the engine.
func Read(ctx context.Context, eng *tensor.Engine, cfg architecture.Reward, src models.WeightSource) (_ *Model, err error) {
	if err := cfg.Fits(src.Tensors()); err != nil {
		return nil, err
	}
	m := &Model{eng: eng}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close(context.WithoutCancel(ctx)))
		}
	}()
	byName := map[string]*tensor.Tensor{}
	for _, w := range cfg.Weights() {
		err := eng.Do(ctx, func(s *tensor.Scope) error {
			t, err := models.ReadTensor(s, src, w.Name, tensor.Float32, w.Shape...)
			if err != nil || s.Err() != nil {
				return err
			}
			m.kept = append(m.kept, t.Keep())
			byName[w.Name] = t
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.Name, err)
		}
	}
	m.net = newNetwork(cfg, byName)
	return m, nil
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

// Config returns the model's configuration.
func (m *Model) Config() architecture.Reward { return m.net.cfg }

// Logits returns the outputs of the model's head for a padded batch -> [pad.Rows, Labels]. The outputs of rows that padding added
// mean nothing. A row's PromptLen counts the tokens of the first segment, [CLS] prompt [SEP]. Rows that do not fit make s fail
// with models.ErrSequence. Call it within NoGrad.
func (m *Model) Logits(s *tensor.Scope, rows []models.Sequence, pad PadRule) *tensor.Tensor {
	in, err := m.net.input(s, rows, pad)
	if err != nil {
		s.Fail(err)
		return s.Zeros(tensor.Float32) // invalid, as everything in a failed scope
	}
	return m.net.logits(s, in)
}
