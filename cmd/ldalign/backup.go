package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/ledger"
)

// backupFile is the last file of a backup: without it the backup is not complete.
const backupFile = "backup.json"

// backupFormat is the version of a backup's layout.
const backupFormat = 1

// backup is what backupFile holds. Beside it are streams/<kind>.jsonl, blobs/<sha256>, details/<sha256> and
// checkpoints/<number>.json.
type backup struct {
	Format   int               `json:"format"`
	Run      string            `json:"run"`
	Spec     string            `json:"spec"` // of the run, as YAML
	Streams  []savedStream     `json:"streams"`
	Progress []ledger.Progress `json:"progress"`
}

type savedStream struct {
	Kind     schemas.Kind `json:"kind"`
	Messages int          `json:"messages"`
	SHA256   string       `json:"sha256"`
}

type backupCommand struct {
	Name string `arg:"" name:"run" help:"Name of the run."`
	To   string `required:"" help:"Folder to write; one of an interrupted backup goes on." type:"path" placeholder:"FOLDER"`
	serverFlags
}

func (backupCommand) Help() string {
	return `Example:

    ldalign backup my-run --to ./my-run-backup
    ldalign restore ./my-run-backup --dir elsewhere

Copies messages, checkpoints and how far each stage is. The run may go on meanwhile: what it does after the checkpoints
were copied is done again after a restore, with the same result.`
}

func (c *backupCommand) Run(ctx context.Context, e *env) error {
	return e.attached(ctx, c.servers(), func(s *runs.Session) error { return c.run(ctx, e, s) })
}

func (c *backupCommand) run(ctx context.Context, e *env, s *runs.Session) (err error) {
	n := e.node(s)
	specs, err := n.specsOf(ctx, []string{c.Name})
	if err != nil {
		return err
	}
	if source := specs[0].Source; specs[0].Replays() {
		return fmt.Errorf("run %s reads the log of run %s, whose places a backup does not keep: back up that one, and replay it again",
			c.Name, source.Run)
	}
	if err := n.intact(ctx, c.Name); err != nil { // a copy of half a run is none
		return err
	}
	if _, err := os.Stat(filepath.Join(c.To, backupFile)); err == nil {
		return fmt.Errorf("%w: %s holds a complete backup; name another folder", errUsage, c.To)
	}
	if err := os.MkdirAll(filepath.Join(c.To, "streams"), 0o755); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	task := n.display.Task("backup "+c.Name, 0, "items")
	defer task.Done()
	text, err := specs[0].YAML()
	if err != nil {
		return err
	}
	b := backup{Format: backupFormat, Run: c.Name, Spec: string(text)}
	// Checkpoints before messages: what a checkpoint was made of is then among them.
	if err := n.Checkpoints.Backup(ctx, c.Name, c.To, func(int64) { task.Add(1) }); err != nil {
		return err
	}
	if b.Progress, err = ledger.ProgressOf(ctx, n.Streams, c.Name); err != nil {
		return err
	}
	for _, kind := range restoreOrder() {
		saved, err := n.saveStream(ctx, kind, c.Name, c.To, func() { task.Add(1) })
		if err != nil {
			return err
		}
		b.Streams = append(b.Streams, saved)
	}
	if err := b.write(c.To); err != nil {
		return err
	}
	if e.json {
		return printJSON(e.stdout, []transferred{{c.Name, c.To}})
	}
	_, err = fmt.Fprintf(e.stdout, "%s: run %s; `ldalign restore %s` puts it back\n", c.To, c.Name, pasted(c.To))
	return err
}

// pasted is a path as a shell takes it from a command that was printed.
func pasted(path string) string {
	if plain.MatchString(path) {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

var plain = regexp.MustCompile(`^[\pL\pN_./+@%=:,-]+$`)

// restoreOrder is the order in which kinds are restored: what names another message comes after it, and what declares the
// run last, so that a run which is declared is whole.
func restoreOrder() []schemas.Kind {
	return []schemas.Kind{
		schemas.Checkpoints, schemas.Prompts, schemas.Pairs, schemas.Encoded, schemas.Scored, schemas.DeadLetters,
		schemas.Results, schemas.Control,
	}
}

func streamFile(dir string, kind schemas.Kind) string {
	return filepath.Join(dir, "streams", string(kind)+".jsonl")
}

// saveStream writes the messages of one kind. A file that an interrupted backup left is written anew.
func (n *node) saveStream(
	ctx context.Context, kind schemas.Kind, run, dir string, onMessage func(),
) (saved savedStream, err error) {
	f, err := os.Create(streamFile(dir, kind))
	if err != nil {
		return saved, fmt.Errorf("backup: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	hash := sha256.New()
	saved.Kind = kind
	if saved.Messages, err = ledger.Save(ctx, n.Streams, kind, run, io.MultiWriter(f, hash), onMessage); err != nil {
		return saved, err
	}
	saved.SHA256 = hex.EncodeToString(hash.Sum(nil))
	return saved, f.Sync()
}

// transferred is what backup and restore print with --json.
type transferred struct {
	Run    string `json:"run"`
	Folder string `json:"folder,omitempty"` // of the backup
}

type restoreCommand struct {
	Folder string `arg:"" help:"Folder of a backup." type:"existingdir"`
	As     string `help:"Restore it as a run of another name: a copy beside the original." placeholder:"NAME"`
	serverFlags
}

func (restoreCommand) Help() string {
	return `Example:

    ldalign restore ./my-run-backup
    ldalign restore ./my-run-backup --nats nats://10.0.0.5:4222 --s3 http://10.0.0.6:9000
    ldalign restore ./my-run-backup --as my-copy

Puts the run back where no run of its name is. With --as it is a copy under another name: as if the run had always had that
name, with other ids and digests, which are made of it, and the same weights. Interrupted, the same command goes on.
Afterwards ` + "`ldalign up`" + ` with the run's spec goes on from the newest checkpoint.`
}

func (c *restoreCommand) Run(ctx context.Context, e *env) (err error) {
	if c.As != "" {
		if !schemas.ValidRun(c.As) {
			return fmt.Errorf("%w: %q cannot be a run's name: lower-case letters, digits, - and _, at most 63", errUsage, c.As)
		}
		renamed, made := os.MkdirTemp("", "ldalign-restore-")
		if made != nil {
			return fmt.Errorf("restore: %w", made)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(renamed)) }()
		if err := renameBackup(c.Folder, renamed, c.As); err != nil {
			return err
		}
		c.Folder = renamed
	}
	b, err := readBackup(c.Folder)
	if err != nil {
		return err
	}
	specs, err := schemas.ParseSpecs(filepath.Join(c.Folder, backupFile), []byte(b.Spec))
	if err != nil {
		return err
	}
	if len(specs) != 1 {
		return fmt.Errorf("%s holds %d specs, want one", filepath.Join(c.Folder, backupFile), len(specs))
	}
	o := runs.Options{Servers: c.servers(), Limits: specs[0].Streams, Name: "ldalign-restore"}
	return e.opened(ctx, o, func(s *runs.Session) error { return c.restore(ctx, e, s, b) })
}

func (c *restoreCommand) restore(ctx context.Context, e *env, s *runs.Session, b backup) (err error) {
	n := e.node(s)
	if err := n.Streams.EnsureTopology(ctx); err != nil {
		return err
	}
	if _, err := n.spec(ctx, b.Run); !errors.Is(err, streams.ErrNotFound) {
		return errors.Join(err, fmt.Errorf("run %s is there already: `ldalign runs delete %s` removes it, --as NAME makes a copy",
			b.Run, b.Run))
	}
	lease, err := n.Streams.AcquireLease(ctx, b.Run, runs.Holder(), restoreTTL)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lease.Release()) }()
	total := 0
	for _, s := range b.Streams {
		total += s.Messages
	}
	task := n.display.Task("restore "+b.Run, int64(total), "messages")
	defer task.Done()
	moved := ledger.Moved{}
	for _, s := range b.Streams {
		if s.Kind == schemas.Control {
			if err := n.restoreRest(ctx, c.Folder, b, moved); err != nil {
				return err
			}
		}
		if err := n.loadStream(ctx, c.Folder, s, b.Run, moved, func() { task.Add(1) }); err != nil {
			return err
		}
	}
	if e.json {
		return printJSON(e.stdout, []transferred{{Run: b.Run}})
	}
	_, err = fmt.Fprintf(e.stdout, "run %s is restored: `ldalign audit %s` counts it, `ldalign up` with its spec goes on\n",
		b.Run, b.Run)
	return err
}

// restoreTTL is how long the lease of a restore that died keeps a trainer out.
const restoreTTL = 10 * time.Second

// restoreRest restores what stands between the messages and their declaration: checkpoints, and how far the stages are.
func (n *node) restoreRest(ctx context.Context, dir string, b backup, moved ledger.Moved) error {
	task := n.display.Task("restore checkpoints", 0, "files")
	defer task.Done()
	place := func(stream string, sequence uint64) uint64 {
		for _, kind := range schemas.Kinds() {
			if streams.StreamName(kind) == stream {
				return moved.To(kind, sequence)
			}
		}
		return sequence
	}
	if err := n.Checkpoints.Restore(ctx, b.Run, dir, place, func(int64) { task.Add(1) }); err != nil {
		return err
	}
	for _, p := range b.Progress {
		if err := n.Streams.SettleUpTo(ctx, p.Stage, p.Kind, b.Run, moved.To(p.Kind, p.Settled)); err != nil {
			return err
		}
	}
	return nil
}

// loadStream verifies a file of messages and restores it.
func (n *node) loadStream(
	ctx context.Context, dir string, s savedStream, run string, moved ledger.Moved, onMessage func(),
) error {
	f, err := openSaved(dir, s)
	if err != nil {
		return err
	}
	defer f.Close()
	return ledger.Load(ctx, n.Streams, s.Kind, run, f, moved, onMessage)
}

// openSaved opens a file of messages that was verified.
func openSaved(dir string, s savedStream) (f *os.File, err error) {
	if f, err = os.Open(streamFile(dir, s.Kind)); err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return nil, fmt.Errorf("restore: %s: %w", f.Name(), err)
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != s.SHA256 {
		return nil, fmt.Errorf("%s is not what was backed up (sha256 %.12s, want %.12s): take another copy", f.Name(), got, s.SHA256)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("restore: %s: %w", f.Name(), err)
	}
	return f, nil
}

// write makes a folder a complete backup.
func (b backup) write(dir string) error {
	data, err := json.MarshalIndent(b, "", "  ")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, backupFile), append(data, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return nil
}

func readBackup(dir string) (backup, error) {
	data, err := os.ReadFile(filepath.Join(dir, backupFile))
	if errors.Is(err, os.ErrNotExist) {
		return backup{}, fmt.Errorf("%w: %s is no complete backup: it has no %s", errUsage, dir, backupFile)
	}
	if err != nil {
		return backup{}, fmt.Errorf("restore: %w", err)
	}
	return parseBackup(dir, data)
}

// parseBackup reads what backupFile of a folder holds.
func parseBackup(dir string, data []byte) (b backup, err error) {
	decode := json.NewDecoder(bytes.NewReader(data))
	decode.DisallowUnknownFields()
	if err := decode.Decode(&b); err != nil {
		return b, fmt.Errorf("%s: %w", filepath.Join(dir, backupFile), err)
	}
	switch {
	case b.Format != backupFormat:
		return b, fmt.Errorf("%s: format %d, this build reads %d", dir, b.Format, backupFormat)
	case !schemas.ValidRun(b.Run):
		return b, fmt.Errorf("%s: %q is not a run's name", dir, b.Run)
	}
	want := restoreOrder()
	if len(b.Streams) != len(want) {
		return b, fmt.Errorf("%s names %d streams, want %d", dir, len(b.Streams), len(want))
	}
	for i, s := range b.Streams {
		if s.Kind != want[i] {
			return b, fmt.Errorf("%s: stream %d is %q, want %s", dir, i+1, s.Kind, want[i])
		}
	}
	return b, nil
}
