package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"

	"github.com/ldalign/ldalign/ops/progress"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/ops/runs/derive"
	"github.com/ldalign/ldalign/schemas"
)

type backupCommand struct {
	Name string `arg:"" name:"run" help:"Name of the run."`
	To   string `required:"" help:"Folder to write; an interrupted backup in it is continued." type:"path" placeholder:"FOLDER"`
	serverFlags
}

func (backupCommand) Help() string {
	return `Example:

    ldalign backup my-run --to ./my-run-backup
    ldalign restore ./my-run-backup --dir elsewhere

Copies the run's messages and checkpoints, and the position of each stage. The run may continue meanwhile: after a restore
it repeats the work that it did after its checkpoints were copied, with the same result.`
}

func (c *backupCommand) Run(ctx context.Context, e *env) error {
	return e.attached(ctx, c.servers(), func(s *runs.Session) error {
		spec, err := runs.Spec(ctx, s, c.Name)
		if err != nil {
			return err
		}
		task := e.display.Task("backup "+c.Name, 0, "items")
		defer task.Done()
		if err := runs.Backup(ctx, s, spec, c.To, func() { task.Add(1) }); err != nil {
			return err
		}
		if e.json {
			return printJSON(e.stdout, []transferred{{c.Name, c.To}})
		}
		_, err = fmt.Fprintf(e.stdout, "%s: run %s; `ldalign restore %s` restores it\n", c.To, c.Name, pasted(c.To))
		return err
	})
}

// pasted quotes a path, if needed, so that a printed command can be pasted into a shell.
func pasted(path string) string {
	if plain.MatchString(path) {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

var plain = regexp.MustCompile(`^[\pL\pN_./+@%=:,-]+$`)

// transferred is what backup and restore print with --json.
type transferred struct {
	Run    string `json:"run"`
	Folder string `json:"folder,omitempty"` // of the backup
}

type restoreCommand struct {
	Folder string `arg:"" help:"Folder of a backup." type:"existingdir"`
	As     string `help:"Restore the run under another name, as a copy beside the original." placeholder:"NAME"`
	DryRun bool   `help:"Print the spec that the run would have, and stop."`
	serverFlags
}

func (restoreCommand) Help() string {
	return `Example:

    ldalign restore ./my-run-backup
    ldalign restore ./my-run-backup --nats nats://10.0.0.5:4222 --s3 http://10.0.0.6:9000
    ldalign restore ./my-run-backup --as my-copy --dry-run

A run of the same name must not exist. With --as the run is restored as a copy under another name, as if it had always had
that name: ids and digests that contain the name are computed anew, the weights are the same. If it is interrupted, run the
same command again. Afterwards ` + "`ldalign up`" + ` with the run's spec continues from the newest checkpoint.`
}

func (c *restoreCommand) Run(ctx context.Context, e *env) error {
	request := derive.Restore{As: c.As}
	saved, err := runs.ReadBackup(c.Folder)
	if err != nil {
		return err
	}
	spec, err := saved.Declared()
	if err != nil {
		return err
	}
	if c.DryRun {
		return c.dryRun(ctx, e, spec, request)
	}
	o := runs.Options{Servers: c.servers(), Limits: spec.Streams, Name: "ldalign-restore"}
	return e.opened(ctx, o, func(s *runs.Session) error {
		messages := e.display.Task("restore "+saved.Run, int64(saved.Messages()), "messages")
		defer messages.Done()
		files := sync.OnceValue(func() *progress.Task { return e.display.Task("restore checkpoints", 0, "files") })
		defer func() { files().Done() }()
		spec, err := runs.Restore(ctx, s, c.Folder, request, runs.RestoreProgress{
			Message: func() { messages.Add(1) }, File: func() { files().Add(1) },
		})
		if err != nil {
			return err
		}
		if e.json {
			return printJSON(e.stdout, []transferred{{Run: spec.Run}})
		}
		_, err = fmt.Fprintf(e.stdout, "run %s is restored: `ldalign audit %s` checks it, `ldalign up` with its spec continues it\n",
			spec.Run, spec.Run)
		return err
	})
}

// dryRun prints the spec that the restored run would have, or says why the run cannot be restored here.
func (c *restoreCommand) dryRun(ctx context.Context, e *env, saved schemas.Spec, request derive.Restore) error {
	var facts derive.Facts
	err := e.attached(ctx, c.servers(), func(s *runs.Session) (err error) {
		facts, err = runs.Facts(ctx, s, saved, request.Needs(saved))
		return err
	})
	if err != nil && !errors.Is(err, runs.ErrNoRuns) { // a new folder has no run of any name
		return err
	}
	spec, err := request.Plan(saved, facts)
	if err != nil {
		return err
	}
	return e.showSpec(spec)
}
