package streams

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/minio/highwayhash"
	"github.com/nats-io/nats-server/v2/server"
)

// completeMeta writes the checksums that a killed nats-server has not written. The server writes the configuration of a stream or
// a consumer first, and then its checksum into a second file. When it is killed in between, it ignores the stream with all its
// messages, or the consumer with its position, at every later start. completeMeta writes a checksum that is missing or older than
// its configuration. A newer checksum that does not match means damage, which the server reports.
func completeMeta(dir string) error {
	for _, kind := range []struct {
		folders string
		name    func(folder string) string // the key of the checksum
	}{
		{"*/streams/*", filepath.Base},
		{"*/streams/*/obs/*", func(folder string) string {
			return filepath.Base(filepath.Dir(filepath.Dir(folder))) + "/" + filepath.Base(folder)
		}},
	} {
		folders, err := filepath.Glob(filepath.Join(dir, storeDir, filepath.FromSlash(kind.folders)))
		if err != nil {
			return fmt.Errorf("streams: %w", err)
		}
		for _, folder := range folders {
			if err := completeChecksum(folder, kind.name(folder)); err != nil {
				return fmt.Errorf("streams: complete the configuration in %s: %w", folder, err)
			}
		}
	}
	return nil
}

func completeChecksum(folder, name string) error {
	path, sumPath := filepath.Join(folder, server.JetStreamMetaFile), filepath.Join(folder, server.JetStreamMetaFileSum)
	written, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) { // killed before it wrote anything
		return nil
	}
	if err != nil {
		return err
	}
	summed, err := os.Stat(sumPath)
	if err == nil && !summed.ModTime().Before(written.ModTime()) || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	config, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !json.Valid(config) { // damaged: the server reports it, or replaces it when it is empty
		return nil
	}
	key := sha256.Sum256([]byte(name))
	hash, err := highwayhash.NewDigest64(key[:])
	if err != nil {
		return err
	}
	if _, err := hash.Write(config); err != nil {
		return err
	}
	if err := os.WriteFile(sumPath+".tmp", []byte(hex.EncodeToString(hash.Sum(nil))), 0o600); err != nil {
		return err
	}
	return os.Rename(sumPath+".tmp", sumPath)
}
