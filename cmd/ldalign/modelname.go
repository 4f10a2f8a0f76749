package main

import (
	"context"
	"os"

	"github.com/ldalign/ldalign/models/hub"
	"github.com/ldalign/ldalign/ops/modelname"
	"github.com/ldalign/ldalign/ops/progress"
)

// findModel finds a model by its name (see modelname.Finder), and shows the progress of a download.
func (e *env) findModel(ctx context.Context, name string, servers serverFlags) (modelname.Folder, error) {
	const mega = 1_000_000
	var task *progress.Task // nil if nothing is downloaded
	finder := modelname.Finder{
		Getenv: os.Getenv,
		Store: func(ctx context.Context) (modelname.Store, error) {
			s, err := e.store(ctx, servers.servers())
			if err != nil {
				return nil, err
			}
			return s.Checkpoints, nil
		},
		Progress: func(p hub.Progress) {
			if task == nil {
				task = e.display.Task("fetch "+name, 0, "MB")
			}
			task.SetTotal((p.AllSize + mega - 1) / mega)
			task.Set(p.AllDone / mega)
			task.Note("file", p.File)
		},
	}
	folder, err := finder.Find(ctx, name)
	if task != nil {
		task.Done()
	}
	return folder, err
}
