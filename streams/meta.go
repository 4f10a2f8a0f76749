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

// completeMeta finishes what a nats-server that was killed has begun: it writes a stream's or a consumer's configuration, and
// then, in a file of its own, the checksum. A server that finds the one without the other leaves the stream out, with all its
// messages, or the consumer, with how far it came, until somebody creates it, and again at every start. A checksum that is older
// than the configuration beside it is of the one before; another that does not match is damage, which is the server's to tell.
func completeMeta(dir string) error {
	for _, kind := range []struct {
		folders string
		name    func(folder string) string // what keys the checksum
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
	if !json.Valid(config) { // damage; an empty one is replaced by the server
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
