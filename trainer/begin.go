package trainer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/tokenizer"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/trainer/fit"
	"github.com/ldalign/ldalign/trainer/lineage"
)

// modelFiles are the files of a Hugging Face folder that a policy keeps beside its weights and configuration: the tokenizer's
// files, of this program and of others.
func modelFiles() []string {
	files := slices.DeleteFunc(tokenizer.Files(), func(name string) bool { return name == "config.json" }) // written anew
	return append(files, "added_tokens.json")
}

// begin finds the run's newest policy and state, makes policy 0 when there is none, and loads the model.
func (t *Trainer) begin(ctx context.Context) error {
	base, err := t.Checkpoints.Latest(ctx, t.Spec.Run, checkpoints.Policy)
	if errors.Is(err, checkpoints.ErrNoCheckpoint) {
		base, err = t.first(ctx)
	}
	if err != nil {
		return err
	}
	if base.SpecDigest != t.Spec.Digest() {
		return fmt.Errorf("trainer: checkpoint %s was made with another spec (digest %.12s, this one is %.12s)",
			base.Key, base.SpecDigest, t.Spec.Digest())
	}
	t.base = base
	if t.resume, err = t.intact(ctx); err != nil {
		return err
	}
	from := base
	if t.resume != nil {
		from = *t.resume
	}
	if err := t.compare(ctx, from); err != nil {
		return err
	}
	return t.load(ctx)
}

// intact returns the newest state after the base whose files are all present and undamaged; nil when there is none. It warns
// about each damaged state that it skips. The run then repeats more steps and arrives at the same bits.
func (t *Trainer) intact(ctx context.Context) (*checkpoints.Manifest, error) {
	all, err := t.Checkpoints.List(ctx, t.Spec.Run)
	if err != nil {
		return nil, err
	}
	kept := max(t.Spec.Training.KeepStates, 1)
	for _, m := range slices.Backward(all) {
		if m.Kind != checkpoints.State {
			continue
		}
		if m.Number < t.base.Number || kept == 0 { // older states have lost their files
			break
		}
		kept--
		err := t.verify(ctx, m)
		if err == nil {
			return &m, nil
		}
		if !errors.Is(err, checkpoints.ErrCorrupt) {
			return nil, err
		}
		t.Log.Warn().Err(err).Str("run", t.Spec.Run).Str("checkpoint", m.Key).Int("step", m.Cursor.Step).
			Msg("skipping a damaged state: the run resumes from the checkpoint before it")
	}
	return nil, nil
}

// verify reads all files of a checkpoint.
func (t *Trainer) verify(ctx context.Context, m checkpoints.Manifest) error {
	for _, f := range m.Files {
		if _, err := t.Checkpoints.Local(ctx, m.Run, f); err != nil {
			return err
		}
	}
	return nil
}

// load reads the base policy into memory.
func (t *Trainer) load(ctx context.Context) error {
	folder, err := t.Checkpoints.Folder(ctx, t.base)
	if err != nil {
		return err
	}
	if t.model, err = models.Load(ctx, t.Engine, folder, models.Options{}); err != nil {
		return err
	}
	if t.tokenizer, err = tokenizer.Load(folder); err != nil {
		return err
	}
	t.format, err = t.fit(t.model.Config(), t.tokenizer)
	return err
}

// fit returns the format of a model's prompts and responses. A model that does not fit the spec is an error.
func (t *Trainer) fit(config architecture.Config, tok *tokenizer.Tokenizer) (*tokenizer.Format, error) {
	if err := fit.Policy(t.Spec, config); err != nil {
		return nil, fmt.Errorf("trainer: %w", err)
	}
	return tokenizer.NewFormat(tok, tokenizer.FormatOptions{Template: t.Spec.Model.Template, System: t.Spec.Model.System})
}

// fitFirst checks that the spec fits the model of the first policy, and the guide. It is called before anything is committed,
// because the spec of a run that has a policy cannot change any more.
func (t *Trainer) fitFirst(config architecture.Config, tok *tokenizer.Tokenizer) error {
	if _, err := t.fit(config, tok); err != nil {
		return err
	}
	if err := fit.Guide(t.Spec, config); err != nil {
		return fmt.Errorf("trainer: %w", err)
	}
	return nil
}

// fitFolder is fitFirst for the model in a folder.
func (t *Trainer) fitFolder(dir string) (err error) {
	config, err := architecture.ReadConfig(os.DirFS(dir))
	if err != nil {
		return fit.ModelError(dir, err)
	}
	tok, err := tokenizer.Load(dir)
	if err != nil {
		return fmt.Errorf("trainer: model.from: %w", err)
	}
	defer func() { err = errors.Join(err, tok.Close()) }()
	return t.fitFirst(config, tok)
}

// first commits policy 0, made from the model that the spec names.
func (t *Trainer) first(ctx context.Context) (checkpoints.Manifest, error) {
	if t.Spec.Source != nil && t.Spec.Source.Policy != "" {
		return t.inherit(ctx)
	}
	files, metrics, err := t.initialFiles(ctx)
	if err != nil {
		return checkpoints.Manifest{}, err
	}
	var machine *checkpoints.Machine
	if t.model != nil {
		machine = t.machine()
		if metrics, err = t.canary(ctx); err != nil {
			return checkpoints.Manifest{}, err
		}
	}
	manifest, err := t.Checkpoints.Commit(ctx, t.Spec.Run, checkpoints.Draft{
		Kind: checkpoints.Policy, SpecDigest: t.Spec.Digest(), Machine: machine, Metrics: metrics, Files: files,
	})
	if t.model != nil { // its weights are committed
		err = errors.Join(err, t.model.Close(ctx))
		t.model = nil
	}
	return manifest, err
}

// initialFiles returns the files of policy 0. known are the metrics of weights that come from another run's checkpoint; these
// weights are not in t.model.
func (t *Trainer) initialFiles(ctx context.Context) (files []checkpoints.Source, known []checkpoints.Metric, err error) {
	from := t.Spec.Model.From
	switch {
	case from == "scratch":
		files, err = t.scratchFiles(ctx)
	case strings.HasPrefix(from, "run:"):
		files, known, err = t.runFiles(ctx, from)
	default:
		files, err = t.importFolder(ctx, from)
	}
	return files, known, err
}

// scratchFiles returns the files of a model with random weights and the tokenizer that the spec names.
func (t *Trainer) scratchFiles(ctx context.Context) ([]checkpoints.Source, error) {
	spec := t.Spec.Model.Scratch
	folder, err := t.Tokenizers(spec.Tokenizer)
	if err != nil {
		return nil, err
	}
	tok, err := tokenizer.FromFS(folder)
	if err != nil {
		return nil, err
	}
	config := architecture.Config{
		Family: spec.Family, Hidden: spec.Hidden, Layers: spec.Layers, Heads: spec.Heads, KVHeads: spec.KVHeads,
		Intermediate: spec.Intermediate, MaxPositions: spec.MaxPositions, Vocab: tok.Vocab(), TieEmbeddings: true,
	}
	config = config.WithDefaults()
	if err := errors.Join(config.Validate(), t.fitFirst(config, tok), tok.Close()); err != nil {
		return nil, err
	}
	model, err := models.Scratch(ctx, t.Engine, config, schemas.SubSeed(t.Spec.Seed, "weights", 0))
	if err != nil {
		return nil, err
	}
	t.model = model
	return t.modelSources(ctx, folder)
}

// importFolder returns the files of a Hugging Face folder, with its weights in one safetensors file.
func (t *Trainer) importFolder(ctx context.Context, dir string) ([]checkpoints.Source, error) {
	if err := t.fitFolder(dir); err != nil {
		return nil, err
	}
	model, err := models.Load(ctx, t.Engine, dir, models.Options{})
	if err != nil {
		return nil, err
	}
	t.model = model
	return t.modelSources(ctx, os.DirFS(dir))
}

// modelSources returns the files of t.model and the tokenizer files of a folder.
func (t *Trainer) modelSources(ctx context.Context, folder fs.FS) ([]checkpoints.Source, error) {
	config, err := t.model.Config().JSON()
	if err != nil {
		return nil, err
	}
	files, err := folderFiles(folder)
	if err != nil {
		return nil, err
	}
	return append(files, checkpoints.FromBytes("config.json", config), checkpoints.Source{
		Name: checkpoints.WeightsFile, Write: t.writeWeights(ctx),
	}), nil
}

// folderFiles are the files beside the weights that a Hugging Face folder has.
func folderFiles(folder fs.FS) ([]checkpoints.Source, error) {
	var files []checkpoints.Source
	for _, name := range modelFiles() {
		data, err := fs.ReadFile(folder, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("trainer: %w", err)
		}
		files = append(files, checkpoints.FromBytes(name, data))
	}
	return files, nil
}

// runFiles returns the files of another run's policy, which from (model.from) names.
func (t *Trainer) runFiles(ctx context.Context, from string) ([]checkpoints.Source, []checkpoints.Metric, error) {
	ref, err := schemas.ParseRunReference(from)
	if err != nil {
		return nil, nil, fmt.Errorf("trainer: model.from: %w", err)
	}
	manifest, err := t.Checkpoints.PolicyOf(ctx, ref)
	if err != nil {
		return nil, nil, fmt.Errorf("trainer: model.from: %s: %w", from, err)
	}
	return t.policyFiles(ctx, manifest)
}

// policyFiles returns the files of a policy that a new policy takes over, and the metrics of its weights. A model that does
// not fit the spec is an error.
func (t *Trainer) policyFiles(
	ctx context.Context, manifest checkpoints.Manifest,
) ([]checkpoints.Source, []checkpoints.Metric, error) {
	folder, err := t.Checkpoints.Folder(ctx, manifest)
	if err != nil {
		return nil, nil, err
	}
	if err := t.fitFolder(folder); err != nil {
		return nil, nil, err
	}
	var files []checkpoints.Source
	for _, f := range manifest.Files {
		if f.Name != checkpoints.WeightsFile && !inherited(f.Name) || f.Name == lineage.File {
			continue
		}
		files = append(files, checkpoints.Source{Name: f.Name, Write: func(w io.Writer) (err error) {
			in, err := t.Checkpoints.Open(ctx, manifest.Run, f)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, in.Close()) }()
			_, err = io.Copy(w, in)
			return err
		}})
	}
	slices.SortFunc(files, func(a, b checkpoints.Source) int { return strings.Compare(a.Name, b.Name) })
	var known []checkpoints.Metric
	if canary, ok := manifest.Metric(checkpoints.CanaryMetric); ok {
		known = append(known, checkpoints.Metric{Name: checkpoints.CanaryMetric, Value: canary})
	}
	return files, known, nil
}
