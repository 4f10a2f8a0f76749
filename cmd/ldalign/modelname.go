package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/models/hub"
	"github.com/ldalign/ldalign/ops/progress"
	"github.com/ldalign/ldalign/schemas"
)

// modelPlace is where a model lies, and the name that always means these very weights.
type modelPlace struct {
	dir string
	// name is the folder as it was named, RUN@ITERATION, or ORG/NAME@COMMIT.
	name string
}

// findModel finds a model by its name: a folder, a policy of a run (RUN@ITERATION, RUN@ for the newest), or an id of the
// Hugging Face Hub (ORG/NAME, ORG/NAME@REVISION), of which it fetches what the cache lacks.
func (e *env) findModel(ctx context.Context, name string, servers serverFlags) (modelPlace, error) {
	if info, err := os.Stat(name); err == nil {
		if !info.IsDir() {
			return modelPlace{}, fmt.Errorf("%s is no folder; name the folder that holds config.json", name)
		}
		return modelPlace{name, name}, nil
	}
	if run, iteration, ok := strings.Cut(name, "@"); ok && !strings.ContainsAny(run, `/\`) {
		return e.runModel(ctx, run, iteration, servers)
	}
	return e.hubModel(ctx, name)
}

// runModel is the policy of a run as a folder, from the checkpoint store's cache.
func (e *env) runModel(ctx context.Context, run, iteration string, servers serverFlags) (modelPlace, error) {
	n, err := e.openCheckpoints(ctx, servers.over(schemas.ServersSpec{}))
	if err != nil {
		return modelPlace{}, err
	}
	var manifest checkpoints.Manifest
	if iteration == "" {
		manifest, err = n.checkpoints.Latest(ctx, run, checkpoints.Policy)
	} else {
		number, bad := strconv.ParseUint(iteration, 10, 32)
		if bad != nil {
			return modelPlace{}, fmt.Errorf("%w: %s@%s: the iteration is a whole number", errUsage, run, iteration)
		}
		manifest, err = n.checkpoints.Policy(ctx, run, uint32(number))
	}
	if err != nil {
		return modelPlace{}, err
	}
	dir, err := n.checkpoints.Folder(ctx, manifest)
	return modelPlace{dir, fmt.Sprintf("%s@%d", run, manifest.Iteration)}, err
}

// hubModel is a repository of the Hub, fetched into the cache that is shared with huggingface_hub.
func (e *env) hubModel(ctx context.Context, name string) (_ modelPlace, err error) {
	options, err := hub.FromEnv(os.Getenv)
	if err != nil {
		return modelPlace{}, err
	}
	display := progress.New(e.stderr, progress.Options{JSON: e.json})
	defer func() { err = errors.Join(err, display.Close()) }()
	const mega = 1_000_000
	var task *progress.Task // none where all is there
	options.Progress = func(p hub.Progress) {
		if task == nil {
			task = display.Task("fetch "+name, 0, "MB")
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
	case errors.Is(err, hub.ErrNotHub), errors.Is(err, fs.ErrNotExist): // a path is not asked for
		return modelPlace{}, fmt.Errorf("there is no folder %s, and the name is neither RUN@ITERATION nor an id of the Hub (ORG/NAME)",
			filepath.Clean(name))
	case err != nil:
		return modelPlace{}, fmt.Errorf("there is no folder %s here, and as an id of the Hub: %w", filepath.Clean(name), err)
	}
	return modelPlace{m.Dir, m.ID + "@" + m.Revision}, nil
}
