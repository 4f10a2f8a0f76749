// Package modelname finds a model by the name that a user gives: a folder, a policy of a run, or an id of the Hugging Face Hub.
package modelname

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/hub"
	"github.com/ldalign/ldalign/schemas"
)

// ErrName reports that a model's name is malformed.
var ErrName = errors.New("wrong name of a model")

// Folder is a model in a folder.
type Folder struct {
	Dir string
	// Name identifies the weights: the folder as the user named it, RUN@ITERATION, or ORG/NAME@COMMIT. For an adapter it is the
	// adapter's folder and the name of its base.
	Name string
	// Adapter is the folder of a PEFT adapter that belongs on the model in Dir; empty for a model without one.
	Adapter string
}

// Store is a checkpoint store with the policies of runs.
type Store interface {
	PolicyOf(ctx context.Context, ref schemas.PolicyRef) (checkpoints.Manifest, error)
	// Folder returns a folder with a checkpoint's files.
	Folder(ctx context.Context, m checkpoints.Manifest) (string, error)
}

// Finder finds models.
type Finder struct {
	// Store opens the checkpoint store. It is called if the name is a run's.
	Store func(context.Context) (Store, error)
	// Getenv reads the settings of huggingface_hub (HF_HOME, HF_ENDPOINT, HF_TOKEN, ...).
	Getenv func(string) string
	// Progress, if not nil, is called with the progress of a download.
	Progress func(hub.Progress)
}

// Find finds a model by its name: a folder, a policy of a run (RUN@ITERATION, RUN@ for the newest), or an id of the Hugging
// Face Hub (ORG/NAME, ORG/NAME@REVISION). It downloads files of the Hub that the cache lacks. A folder may also hold only a PEFT
// adapter, which then names its base in one of these ways.
func (f Finder) Find(ctx context.Context, name string) (Folder, error) {
	if !holds(name, architecture.AdapterConfigFile) || holds(name, "config.json") {
		return f.base(ctx, name)
	}
	base, err := architecture.AdapterBase(name)
	if err != nil {
		return Folder{}, err
	}
	if base == "" {
		return Folder{}, fmt.Errorf("%s is an adapter that does not name the model it belongs to: write that model's folder or "+
			"Hugging Face id into base_model_name_or_path of %s", name, filepath.Join(name, architecture.AdapterConfigFile))
	}
	model, err := f.base(ctx, base)
	if err != nil {
		return Folder{}, fmt.Errorf("%s: base_model_name_or_path is %q: %w",
			filepath.Join(name, architecture.AdapterConfigFile), base, err)
	}
	return Folder{model.Dir, name + " on " + model.Name, name}, nil
}

// holds reports whether a folder has a file.
func holds(dir, file string) bool {
	_, err := os.Stat(filepath.Join(dir, file))
	return err == nil
}

// base is Find for a whole model.
func (f Finder) base(ctx context.Context, name string) (Folder, error) {
	if info, err := os.Stat(name); err == nil {
		if !info.IsDir() {
			return Folder{}, fmt.Errorf("%s is not a folder; name the folder that holds config.json", name)
		}
		return Folder{Dir: name, Name: name}, nil
	}
	if run, _, ok := strings.Cut(name, "@"); ok && !strings.ContainsAny(run, `/\`) {
		ref, err := schemas.ParsePolicyRef(strings.TrimSuffix(name, "@")) // RUN@ means the newest; RUN alone would be a folder
		if err != nil {
			return Folder{}, fmt.Errorf("%w: %w", ErrName, err)
		}
		return f.policy(ctx, ref)
	}
	return f.hub(ctx, name)
}

// policy returns a policy of a run, as a folder in the checkpoint store's cache.
func (f Finder) policy(ctx context.Context, ref schemas.PolicyRef) (Folder, error) {
	store, err := f.Store(ctx)
	if err != nil {
		return Folder{}, err
	}
	manifest, err := store.PolicyOf(ctx, ref)
	if err != nil {
		return Folder{}, err
	}
	dir, err := store.Folder(ctx, manifest)
	ref.Iteration = int(manifest.Iteration)
	return Folder{Dir: dir, Name: ref.String()}, err
}

// hub downloads a repository of the Hub into the cache that is shared with huggingface_hub.
func (f Finder) hub(ctx context.Context, name string) (Folder, error) {
	options, err := hub.FromEnv(f.Getenv)
	if err != nil {
		return Folder{}, err
	}
	options.Progress = f.Progress
	m, err := hub.Resolve(ctx, name, options)
	switch {
	case errors.Is(err, hub.ErrNotHub), errors.Is(err, fs.ErrNotExist) && !errors.Is(err, hub.ErrOffline):
		return Folder{}, fmt.Errorf("there is no folder %s, and the name is neither RUN@ITERATION nor an id of the Hub (ORG/NAME)",
			filepath.Clean(name))
	case err != nil:
		return Folder{}, fmt.Errorf("there is no folder %s here, and as an id of the Hub: %w", filepath.Clean(name), err)
	}
	return Folder{Dir: m.Dir, Name: m.ID + "@" + m.Revision}, nil
}

// TokenizerFiles returns the files of the model's tokenizer: those in the adapter's folder, where PEFT trainers save them, or the
// base's. The configuration, which names the end tokens, always comes from the base. dir is the folder, for error texts.
func (m Folder) TokenizerFiles() (files fs.FS, dir string) {
	if m.Adapter == "" || !holds(m.Adapter, "tokenizer.json") {
		return os.DirFS(m.Dir), m.Dir
	}
	return besideAdapter{os.DirFS(m.Adapter), os.DirFS(m.Dir)}, m.Adapter
}

// besideAdapter has the files of a tokenizer in an adapter's folder, and the configuration of the base.
type besideAdapter struct{ adapter, base fs.FS }

func (b besideAdapter) Open(name string) (fs.File, error) {
	if name == "config.json" || name == "generation_config.json" {
		return b.base.Open(name)
	}
	return b.adapter.Open(name)
}
