package runs

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/ops/runs/derive"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams/ledger"
)

// renameBackup makes a backup of the same run under another name, in the folder to. Files that do not change are linked. What is
// computed from the run's name is computed anew: subjects, ids of pairs, digests of manifests, and references to them.
func renameBackup(dir, to, as string) error {
	saved, err := ReadBackup(dir)
	if err != nil {
		return err
	}
	names := &ledger.Renaming{From: saved.Run, To: as, Spec: func(text []byte) ([]byte, error) { return renameSpec(text, as) }}
	for _, s := range saved.Streams {
		if err := learn(names, dir, s); err != nil {
			return err
		}
	}
	if names.Digests, err = checkpoints.RenameBackup(dir, to, saved.Run, as, names.Pair); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(to, "streams"), 0o700); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	for i, s := range saved.Streams {
		if saved.Streams[i].SHA256, err = renameStream(names, dir, to, s.Kind); err != nil {
			return err
		}
	}
	text, err := renameSpec([]byte(saved.Spec), as)
	if err != nil {
		return err
	}
	saved.Run, saved.Spec = as, string(text)
	return saved.write(to)
}

// renameSpec renames the run in the spec with which it was declared.
func renameSpec(text []byte, as string) ([]byte, error) {
	spec, err := schemas.ParseDeclared(BackupFile, text)
	if err != nil {
		return nil, err
	}
	if spec, err = (derive.Restore{As: as}).Plan(spec, derive.Facts{}); err != nil {
		return nil, err
	}
	return spec.Declaration()
}

// learn verifies a file of messages and records the ids of its pairs.
func learn(names *ledger.Renaming, dir string, s SavedStream) (err error) {
	f, err := openSaved(dir, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	switch s.Kind {
	case schemas.Prompts, schemas.Pairs, schemas.Encoded, schemas.Scored, schemas.DeadLetters:
		return names.Learn(f)
	case schemas.Checkpoints, schemas.Results, schemas.Control:
	}
	return nil
}

// renameStream writes a file of messages under the new name and returns its sha256.
func renameStream(names *ledger.Renaming, dir, to string, kind schemas.Kind) (sum string, err error) {
	in, err := os.Open(streamFile(dir, kind))
	if err != nil {
		return "", fmt.Errorf("restore: %w", err)
	}
	defer in.Close()
	out, err := os.Create(streamFile(to, kind))
	if err != nil {
		return "", fmt.Errorf("restore: %w", err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	hash := sha256.New()
	if err := names.Rename(in, io.MultiWriter(out, hash)); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
