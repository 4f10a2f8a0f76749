package checkpoints

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// RenameBackup copies the checkpoints of a backup to another folder and gives the run another name. The result is what that
// run's trainer would have committed. RenameBackup rewrites manifests and records of batches, because they name the run and
// its pairs; pair returns the new id of a pair. Other files become links to those of the backup. RenameBackup returns the
// digests of the new manifests by the old ones.
func RenameBackup(dir, to, run, as string, pair func(id string) string) (map[string]string, error) {
	failed := func(err error) error { return fmt.Errorf("checkpoints: rename run %s: %w", run, err) }
	for _, folder := range []string{"blobs", "details", "expired", "checkpoints"} {
		if err := os.MkdirAll(filepath.Join(to, folder), 0o700); err != nil {
			return nil, failed(err)
		}
	}
	for _, folder := range []string{"blobs", "details"} {
		names, err := filesIn(filepath.Join(dir, folder))
		if err != nil {
			return nil, failed(err)
		}
		for _, name := range names {
			if err := link(filepath.Join(dir, folder, name), filepath.Join(to, folder, name)); err != nil {
				return nil, failed(err)
			}
		}
	}
	names, err := filesIn(filepath.Join(dir, "checkpoints"))
	if err != nil {
		return nil, failed(err)
	}
	digests := map[string]string{}
	for _, name := range names { // in the order of their numbers: what a manifest names was committed before it
		m, err := renameManifest(dir, to, run, as, name, digests, pair)
		if err != nil {
			return nil, failed(err)
		}
		if err := copyNote(dir, to, m.old, m.new); err != nil {
			return nil, failed(err)
		}
		digests[m.old] = m.new
	}
	return digests, nil
}

type renamedManifest struct{ old, new string }

func renameManifest(
	dir, to, run, as, name string, digests map[string]string, pair func(string) string,
) (out renamedManifest, err error) {
	data, err := os.ReadFile(filepath.Join(dir, "checkpoints", name))
	if err != nil {
		return out, err
	}
	m, err := ParseManifest(manifestPrefix(run)+name, data)
	if err != nil {
		return out, err
	}
	out.old, m.Run = m.Digest, as
	if parent, own := digests[m.Parent]; own {
		m.Parent = parent
	}
	if m.Cursor != nil {
		for i, id := range m.Cursor.Pending {
			m.Cursor.Pending[i] = pair(id)
		}
	}
	for i, f := range m.Files {
		if f.Name != BatchesFile && !SegmentOf(f.Name, BatchesFile) {
			continue
		}
		if m.Files[i], err = renameBatches(dir, to, f, pair); err != nil {
			return out, err
		}
	}
	if data, err = m.encode(); err != nil {
		return out, err
	}
	sum := sha256.Sum256(data)
	out.new = hex.EncodeToString(sum[:])
	return out, os.WriteFile(filepath.Join(to, "checkpoints", name), data, 0o600)
}

// renameBatches rewrites a record of batches. The record of a superseded state may be gone; then the file is unchanged.
func renameBatches(dir, to string, f File, pair func(string) string) (File, error) {
	data, err := os.ReadFile(filepath.Join(dir, "blobs", f.SHA256))
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, err
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != f.SHA256 {
		return f, fmt.Errorf("%w: %s: take another copy of the backup", ErrCorrupt, filepath.Join(dir, "blobs", f.SHA256))
	}
	b, err := ReadBatches(data)
	if err != nil {
		return f, err
	}
	for i, id := range b.Pairs {
		b.Pairs[i] = pair(id)
	}
	for i, s := range b.Skipped {
		b.Skipped[i].ID = pair(s.ID)
	}
	var out bytes.Buffer
	if err := b.Write(&out); err != nil {
		return f, err
	}
	sum := sha256.Sum256(out.Bytes())
	f.Bytes, f.SHA256 = int64(out.Len()), hex.EncodeToString(sum[:])
	path := filepath.Join(to, "blobs", f.SHA256)
	if _, err := os.Lstat(path); err == nil {
		return f, nil // the same, by its name
	}
	return f, os.WriteFile(path, out.Bytes(), 0o600)
}

// copyNote copies the note that retention has removed a checkpoint's weights, if there is one.
func copyNote(dir, to, old, digest string) error {
	data, err := os.ReadFile(filepath.Join(dir, "expired", old))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(to, "expired", digest), data, 0o600)
}

// link makes another path a hard link to a file.
func link(from, to string) error {
	from, err := filepath.Abs(from)
	if err != nil {
		return err
	}
	return os.Symlink(from, to)
}
