package checkpoints

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
)

var (
	// ErrNotFound says that no object has the key.
	ErrNotFound = errors.New("checkpoints: not found")
	// ErrExists says that an object with the key and other bytes is already there.
	ErrExists = errors.New("checkpoints: already exists")
	// ErrKey says that a key cannot name an object.
	ErrKey = errors.New("checkpoints: bad key")
	// ErrSize says that a reader held more or fewer bytes than announced.
	ErrSize = errors.New("checkpoints: size differs from the one announced")
)

// Store keeps objects by key. Keys are slash-separated segments of letters, digits, and . _ -, each starting with a
// letter or a digit; anything else is ErrKey. A key must not be the folder of another (a and a/b). All methods may be
// called from many goroutines and processes at once, and return the context's error when it ends first.
type Store interface {
	// Put stores the size bytes of r under key, replacing what is there. The object is visible whole or not at all, and
	// durable when Put returns. ErrSize if r holds more or fewer bytes; nothing is stored then.
	Put(ctx context.Context, key string, r io.Reader, size int64) error
	// Create stores data under key if the key is free; of several callers with different data one succeeds. ErrExists if
	// the key holds other bytes; if it holds the same bytes that is success, for a creation that was cut off may have
	// arrived. Whole and durable like Put. For small objects: data is sent in one piece.
	Create(ctx context.Context, key string, data []byte) error
	// Get opens an object, or ErrNotFound.
	Get(ctx context.Context, key string) (io.ReadCloser, error)
	// Stat gives an object's size in bytes, or ErrNotFound. An object that Stat has seen is durable.
	Stat(ctx context.Context, key string) (int64, error)
	// List gives the keys that start with prefix, sorted by bytes. The empty prefix lists all.
	List(ctx context.Context, prefix string) ([]string, error)
	// Delete removes an object; to remove one that is not there is success.
	Delete(ctx context.Context, key string) error
}

const maxKey = 512

// checkKey refuses keys that could leave the store, collide with its own files or mean different things to back ends.
func checkKey(key string) error {
	if key == "" || len(key) > maxKey {
		return fmt.Errorf("%w: %q has %d bytes, allowed are 1 to %d", ErrKey, key, len(key), maxKey)
	}
	for segment := range strings.SplitSeq(key, "/") {
		if !cleanSegment(segment) {
			return fmt.Errorf("%w: %q: segment %q is not letters, digits, and . _ - after a letter or digit", ErrKey, key,
				segment)
		}
	}
	return nil
}

// checkPrefix refuses prefixes that no key can start with.
func checkPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	if err := checkKey(strings.TrimSuffix(prefix, "/")); err != nil {
		return fmt.Errorf("prefix: %w", err)
	}
	return nil
}

func cleanSegment(s string) bool {
	if s == "" || len(s) > 255 || !alphanumeric(s[0]) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !alphanumeric(c) && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

func alphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// diskFull reports whether a local write failed for want of room: full disk, quota, or the process's file size limit.
func diskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

// writeError explains a failed local write of what to below dir.
func writeError(what, dir string, err error) error {
	if diskFull(err) {
		return fmt.Errorf("checkpoints: no room for %s in %s: free some space there and start again; nothing was kept: %w",
			what, dir, err)
	}
	return fmt.Errorf("checkpoints: writing %s in %s: %w", what, dir, err)
}

// contextReader and contextWriter end a copy when the context ends.
type contextReader struct {
	ctx context.Context //nolint:containedctx // io.Reader has no place for one
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

type contextWriter struct {
	ctx context.Context //nolint:containedctx // io.Writer has no place for one
	w   io.Writer
}

func (c contextWriter) Write(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.w.Write(p)
}
