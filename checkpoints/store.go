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
	// ErrNotFound means that no object has the key.
	ErrNotFound = errors.New("checkpoints: not found")
	// ErrExists means that the key already has an object with other bytes.
	ErrExists = errors.New("checkpoints: already exists")
	// ErrKey means that a key is not allowed for an object.
	ErrKey = errors.New("checkpoints: bad key")
	// ErrSize means that a reader had more or fewer bytes than announced.
	ErrSize = errors.New("checkpoints: size differs from the one announced")
	// ErrUnavailable means that the store does not answer, or answers that it cannot work now.
	ErrUnavailable = errors.New("checkpoints: the store is unavailable")
	// ErrUnconditional means that a store cannot keep two writers from creating the same object.
	ErrUnconditional = errors.New("checkpoints: the store ignores conditions")
)

// Store keeps objects by key. Keys are slash-separated segments of letters, digits, and . _ -, each starting with a
// letter or a digit; anything else is ErrKey. A key must not be the folder of another (a and a/b). All methods may be
// called from many goroutines and processes at once, and return the context's error when it ends first.
type Store interface {
	// Put stores the size bytes of r under key, replacing what is there. Readers see the whole object or none of it, and it is
	// durable when Put returns. If r has more or fewer bytes, Put returns ErrSize and stores nothing.
	Put(ctx context.Context, key string, r io.Reader, size int64) error
	// Create stores data under key if the key is free; of several callers with different data one succeeds. If the key has
	// other bytes, Create returns ErrExists. If it has the same bytes, Create succeeds, because an earlier call may have
	// stored them without learning of it. The object is whole and durable as for Put. Data is sent in one piece, so it should
	// be small.
	Create(ctx context.Context, key string, data []byte) error
	// Get opens an object. ErrNotFound if there is none.
	Get(ctx context.Context, key string) (io.ReadCloser, error)
	// Stat returns an object's size in bytes. ErrNotFound if there is none. An object that Stat has seen is durable.
	Stat(ctx context.Context, key string) (int64, error)
	// List returns the keys that start with prefix, sorted by bytes. The empty prefix lists all.
	List(ctx context.Context, prefix string) ([]string, error)
	// Delete removes an object. It returns nil if there is none.
	Delete(ctx context.Context, key string) error
	// String names the store in messages to the user.
	String() string
}

const maxKey = 512

// checkKey refuses keys that could leave the store, collide with its own files or mean different things to back ends.
func checkKey(key string) error {
	if key == "" || len(key) > maxKey {
		return fmt.Errorf("%w: %q has %d bytes, want 1 to %d", ErrKey, key, len(key), maxKey)
	}
	for segment := range strings.SplitSeq(key, "/") {
		if !cleanSegment(segment) {
			return fmt.Errorf("%w: %q: segment %q: letters, digits, and . _ -, starting with a letter or digit", ErrKey, key,
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

// diskFull reports whether a local write failed because the disk, a quota or the process's file size limit is exhausted.
func diskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

// writeError explains why writing what below dir failed.
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
