package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/hub"
	"github.com/ldalign/ldalign/models/tensor"
	"github.com/ldalign/ldalign/models/tokenizer"
	"github.com/ldalign/ldalign/ops/progress"
	"github.com/ldalign/ldalign/schemas"
)

// modelPlace is where a model lies, and the name that always means these very weights.
type modelPlace struct {
	dir string
	// name is the folder as it was named, RUN@ITERATION, or ORG/NAME@COMMIT; of an adapter, its folder and the base's name.
	name string
	// adapter is a folder of PEFT's, whose adapter the model in dir gets; empty for a model without one.
	adapter string
}

// findModel finds a model by its name: a folder, a policy of a run (RUN@ITERATION, RUN@ for the newest), or an id of the
// Hugging Face Hub (ORG/NAME, ORG/NAME@REVISION), of which it fetches what the cache lacks. A folder may also hold an
// adapter of PEFT's alone, which names its base in one of these ways.
func (e *env) findModel(ctx context.Context, name string, servers serverFlags) (modelPlace, error) {
	if !holds(name, models.AdapterConfigFile) || holds(name, "config.json") {
		return e.findBase(ctx, name, servers)
	}
	base, err := models.AdapterBase(name)
	if err != nil {
		return modelPlace{}, err
	}
	if base == "" {
		return modelPlace{}, fmt.Errorf("%s is an adapter that does not name the model it belongs to: write that model's folder or "+
			"Hugging Face id into base_model_name_or_path of %s", name, filepath.Join(name, models.AdapterConfigFile))
	}
	place, err := e.findBase(ctx, base, servers)
	if err != nil {
		return modelPlace{}, fmt.Errorf("%s: base_model_name_or_path is %q: %w",
			filepath.Join(name, models.AdapterConfigFile), base, err)
	}
	return modelPlace{place.dir, name + " on " + place.name, name}, nil
}

// holds tells whether a folder has a file.
func holds(dir, file string) bool {
	_, err := os.Stat(filepath.Join(dir, file))
	return err == nil
}

// tokenizer loads the model's tokenizer: the one beside the adapter, where trainers save it, or the base's. The model's end
// tokens are the base's in any case.
func (p modelPlace) tokenizer() (*tokenizer.Tokenizer, error) {
	if p.adapter == "" || !holds(p.adapter, "tokenizer.json") {
		return tokenizer.Load(p.dir)
	}
	t, err := tokenizer.FromFS(besideAdapter{os.DirFS(p.adapter), os.DirFS(p.dir)})
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", p.adapter, err)
	}
	return t, nil
}

// besideAdapter are the files of a tokenizer that lies beside an adapter.
type besideAdapter struct{ adapter, base fs.FS }

func (b besideAdapter) Open(name string) (fs.File, error) {
	if name == "config.json" || name == "generation_config.json" {
		return b.base.Open(name)
	}
	return b.adapter.Open(name)
}

// load loads the model, with its adapter merged into its weights, packed where it can be.
func (p modelPlace) load(ctx context.Context, engine *tensor.Engine) (*models.Model, error) {
	m, err := models.Load(ctx, engine, p.dir, models.Options{Packed: p.adapter == ""})
	if err != nil || p.adapter == "" {
		return m, err
	}
	if err = m.LoadAdapter(ctx, p.adapter); err == nil {
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

// findBase is findModel for a whole model.
func (e *env) findBase(ctx context.Context, name string, servers serverFlags) (modelPlace, error) {
	if info, err := os.Stat(name); err == nil {
		if !info.IsDir() {
			return modelPlace{}, fmt.Errorf("%s is no folder; name the folder that holds config.json", name)
		}
		return modelPlace{dir: name, name: name}, nil
	}
	if run, _, ok := strings.Cut(name, "@"); ok && !strings.ContainsAny(run, `/\`) {
		ref, err := schemas.ParsePolicyRef(strings.TrimSuffix(name, "@")) // RUN@ is the newest; RUN alone would be a folder
		if err != nil {
			return modelPlace{}, fmt.Errorf("%w: %w", errUsage, err)
		}
		return e.runModel(ctx, ref, servers)
	}
	return e.hubModel(ctx, name)
}

// runModel is the policy of a run as a folder, from the checkpoint store's cache.
func (e *env) runModel(ctx context.Context, ref schemas.PolicyRef, servers serverFlags) (modelPlace, error) {
	n, err := e.store(ctx, servers.servers())
	if err != nil {
		return modelPlace{}, err
	}
	manifest, err := n.Checkpoints.PolicyOf(ctx, ref)
	if err != nil {
		return modelPlace{}, err
	}
	dir, err := n.Checkpoints.Folder(ctx, manifest)
	return modelPlace{dir: dir, name: schemas.PolicyRef{Run: ref.Run, Iteration: int(manifest.Iteration)}.String()}, err
}

// hubModel is a repository of the Hub, fetched into the cache that is shared with huggingface_hub.
func (e *env) hubModel(ctx context.Context, name string) (_ modelPlace, err error) {
	options, err := hub.FromEnv(os.Getenv)
	if err != nil {
		return modelPlace{}, err
	}
	const mega = 1_000_000
	var task *progress.Task // none where all is there
	options.Progress = func(p hub.Progress) {
		if task == nil {
			task = e.display.Task("fetch "+name, 0, "MB")
		}
		task.SetTotal((p.AllSize + mega - 1) / mega)
		task.Set(p.AllDone / mega)
		task.Note("file", p.File)
	}
	m, err := hub.Resolve(ctx, name, options)
	if task != nil {
		task.Done()
	}
	switch {
	case errors.Is(err, hub.ErrNotHub), errors.Is(err, fs.ErrNotExist) && !errors.Is(err, hub.ErrOffline): // a path is not asked for
		return modelPlace{}, fmt.Errorf("there is no folder %s, and the name is neither RUN@ITERATION nor an id of the Hub (ORG/NAME)",
			filepath.Clean(name))
	case err != nil:
		return modelPlace{}, fmt.Errorf("there is no folder %s here, and as an id of the Hub: %w", filepath.Clean(name), err)
	}
	return modelPlace{dir: m.Dir, name: m.ID + "@" + m.Revision}, nil
}
