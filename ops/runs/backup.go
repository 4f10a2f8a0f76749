package runs

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

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/ops/runs/derive"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/streams/ledger"
)

// BackupFile is the file that Backup writes last. A folder without it holds no complete backup.
const BackupFile = "backup.json"

// backupFormat is the version of a backup's layout.
const backupFormat = 2

// Saved is the content of BackupFile. Beside that file are streams/<kind>.jsonl, blobs/<sha256>, details/<sha256> and
// checkpoints/<number>.json.
type Saved struct {
	Format   int               `json:"format"`
	Run      string            `json:"run"`
	Spec     string            `json:"spec"` // of the run, as YAML
	Streams  []SavedStream     `json:"streams"`
	Progress []ledger.Progress `json:"progress"`
}

// SavedStream describes a backup's file with the messages of one log.
type SavedStream struct {
	Kind     schemas.Kind `json:"kind"`
	Messages int          `json:"messages"`
	SHA256   string       `json:"sha256"`
}

// Backup copies a run into a folder: checkpoints, messages, and the position of each stage. It continues an interrupted backup
// and does not copy checkpoint files again. The run may continue meanwhile. Backup calls onItem after each message and each file.
func Backup(ctx context.Context, s *Session, spec schemas.Spec, dir string, onItem func()) error {
	if spec.Replays() {
		return fmt.Errorf("run %s reads the log of run %s, and a backup does not keep the positions in that log: "+
			"back up run %s, and replay it again",
			spec.Run, spec.Source.Run, spec.Source.Run)
	}
	if err := s.Intact(ctx, spec.Run); err != nil { // refuse to back up a run that is only half there
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, BackupFile)); err == nil {
		return fmt.Errorf("%w: %s holds a complete backup; name another folder", derive.ErrRequest, dir)
	}
	text, err := spec.YAML()
	if err != nil {
		return err
	}
	saved := Saved{Format: backupFormat, Run: spec.Run, Spec: string(text)}
	// Copy checkpoints before messages: the backup then has the messages that its checkpoints were made from.
	if err := s.Checkpoints.Backup(ctx, spec.Run, dir, func(int64) { onItem() }); err != nil {
		return err
	}
	if saved.Progress, err = ledger.ProgressOf(ctx, s.Streams, spec.Run); err != nil {
		return err
	}
	for _, kind := range streams.Logs() {
		stream, err := saveStream(ctx, s, kind, spec.Run, dir, onItem)
		if err != nil {
			return err
		}
		saved.Streams = append(saved.Streams, stream)
	}
	return saved.write(dir)
}

func streamFile(dir string, kind schemas.Kind) string {
	return filepath.Join(dir, "streams", string(kind)+".jsonl")
}

// saveStream writes the messages of one kind. A file that an interrupted backup left is written anew.
func saveStream(
	ctx context.Context, s *Session, kind schemas.Kind, run, dir string, onMessage func(),
) (saved SavedStream, err error) {
	hash := sha256.New()
	saved.Kind = kind
	err = checkpoints.WriteDurably(streamFile(dir, kind), func(f io.Writer) (err error) {
		saved.Messages, err = ledger.Save(ctx, s.Streams, kind, run, io.MultiWriter(f, hash), onMessage)
		return err
	})
	saved.SHA256 = hex.EncodeToString(hash.Sum(nil))
	return saved, err
}

// write writes BackupFile, which completes the backup in a folder.
func (s Saved) write(dir string) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err == nil {
		err = checkpoints.WriteDurably(filepath.Join(dir, BackupFile), func(f io.Writer) error {
			_, err := f.Write(append(data, '\n'))
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return nil
}

// ReadBackup reads BackupFile of a folder. It returns derive.ErrRequest if the folder has no complete backup.
func ReadBackup(dir string) (Saved, error) {
	data, err := os.ReadFile(filepath.Join(dir, BackupFile))
	if errors.Is(err, os.ErrNotExist) {
		return Saved{}, fmt.Errorf("%w: %s holds no complete backup: it has no %s", derive.ErrRequest, dir, BackupFile)
	}
	if err != nil {
		return Saved{}, fmt.Errorf("restore: %w", err)
	}
	return parseBackup(dir, data)
}

// parseBackup parses and checks the content of a folder's BackupFile.
func parseBackup(dir string, data []byte) (s Saved, err error) {
	decode := json.NewDecoder(bytes.NewReader(data))
	decode.DisallowUnknownFields()
	if err := decode.Decode(&s); err != nil {
		return s, fmt.Errorf("%s: %w", filepath.Join(dir, BackupFile), err)
	}
	switch {
	case s.Format != backupFormat:
		return s, fmt.Errorf("%s: format %d, this build reads %d", dir, s.Format, backupFormat)
	case !schemas.ValidRun(s.Run):
		return s, fmt.Errorf("%s: %q is not a run's name", dir, s.Run)
	}
	want := streams.Logs()
	if len(s.Streams) != len(want) {
		return s, fmt.Errorf("%s names %d streams, want %d", dir, len(s.Streams), len(want))
	}
	for i, stream := range s.Streams {
		if stream.Kind != want[i] {
			return s, fmt.Errorf("%s: stream %d is %q, want %s", dir, i+1, stream.Kind, want[i])
		}
	}
	return s, nil
}

// Declared returns the spec of the saved run.
func (s Saved) Declared() (schemas.Spec, error) {
	return schemas.ParseDeclared(BackupFile, []byte(s.Spec))
}

// Messages returns the number of messages in the backup.
func (s Saved) Messages() int {
	n := 0
	for _, stream := range s.Streams {
		n += stream.Messages
	}
	return n
}

// openSaved verifies a file of messages and opens it.
func openSaved(dir string, s SavedStream) (f *os.File, err error) {
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
