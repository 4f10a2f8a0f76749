// Package storetest is the conformance suite of checkpoints.Store: what every back end must do, run against the real
// thing.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/checkpoints"
)

// Run runs the suite. open gives an empty store for each test.
func Run(t *testing.T, open func(t *testing.T) checkpoints.Store) {
	t.Run("what is put can be read", func(t *testing.T) { roundTrip(t, open(t)) })
	t.Run("put replaces", func(t *testing.T) { replace(t, open(t)) })
	t.Run("what is not there is ErrNotFound", func(t *testing.T) { absent(t, open(t)) })
	t.Run("a reader of another size stores nothing", func(t *testing.T) { lyingSize(t, open(t)) })
	t.Run("a reader that fails stores nothing", func(t *testing.T) { failingReader(t, open(t)) })
	t.Run("create is for free keys", func(t *testing.T) { create(t, open(t)) })
	t.Run("racing creators have one winner", func(t *testing.T) { race(t, open(t)) })
	t.Run("racing creators of the same bytes all win", func(t *testing.T) { raceSame(t, open(t)) })
	t.Run("readers see whole objects while they are replaced", func(t *testing.T) { torn(t, open(t)) })
	t.Run("list is sorted and by prefix", func(t *testing.T) { list(t, open(t)) })
	t.Run("bad keys are refused", func(t *testing.T) { badKeys(t, open(t)) })
	t.Run("an ended context ends every call", func(t *testing.T) { ended(t, open(t)) })
}

// content is n bytes that depend on seed alone.
func content(seed uint64, n int) []byte {
	data := make([]byte, n)
	source := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	source.Read(data) // never fails
	return data
}

func put(t *testing.T, s checkpoints.Store, key string, data []byte) {
	t.Helper()
	if err := s.Put(t.Context(), key, bytes.NewReader(data), int64(len(data))); err != nil {
		t.Fatalf("Put %s: %v", key, err)
	}
}

func get(t *testing.T, s checkpoints.Store, key string) []byte {
	t.Helper()
	body, err := s.Get(t.Context(), key)
	if err != nil {
		t.Fatalf("Get %s: %v", key, err)
	}
	defer body.Close()
	data, err := io.ReadAll(body)
	if err != nil {
		t.Fatalf("read %s: %v", key, err)
	}
	return data
}

func wantAbsent(t *testing.T, s checkpoints.Store, key string) {
	t.Helper()
	if _, err := s.Stat(t.Context(), key); !errors.Is(err, checkpoints.ErrNotFound) {
		t.Errorf("Stat %s: got %v, want ErrNotFound", key, err)
	}
	if body, err := s.Get(t.Context(), key); !errors.Is(err, checkpoints.ErrNotFound) {
		t.Errorf("Get %s: got %v, want ErrNotFound", key, err)
		if err == nil {
			body.Close()
		}
	}
	keys, err := s.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if k == key {
			t.Errorf("List names %s, which must not be there", key)
		}
	}
}

func roundTrip(t *testing.T, s checkpoints.Store) {
	for _, n := range []int{0, 1, 4096, 1<<20 + 1, 17 << 20} { // the last is above one part of a multipart upload
		key := fmt.Sprintf("runs/a/blobs/%d", n)
		data := content(uint64(n), n)
		put(t, s, key, data)
		if got := get(t, s, key); !bytes.Equal(got, data) {
			t.Errorf("%d bytes put, %d other ones read", n, len(got))
		}
		if size, err := s.Stat(t.Context(), key); err != nil || size != int64(n) {
			t.Errorf("Stat of %d bytes: got %d, %v", n, size, err)
		}
		// not seekable: no look ahead, no second try
		if err := s.Put(t.Context(), key+"-stream", io.MultiReader(bytes.NewReader(data)), int64(n)); err != nil {
			t.Errorf("Put of a stream of %d bytes: %v", n, err)
		} else if got := get(t, s, key+"-stream"); !bytes.Equal(got, data) {
			t.Errorf("%d bytes streamed, %d other ones read", n, len(got))
		}
	}
}

func replace(t *testing.T, s checkpoints.Store) {
	for _, data := range []string{"one", "one", "and two"} {
		put(t, s, "a/b", []byte(data))
		if got := string(get(t, s, "a/b")); got != data {
			t.Errorf("got %q, want %q", got, data)
		}
	}
}

func absent(t *testing.T, s checkpoints.Store) {
	put(t, s, "runs/a/blobs/1", []byte("1"))
	for _, key := range []string{"nothing", "runs/a/blobs/2", "runs/a", "runs/a/blobs", "runs/b/blobs/1"} {
		wantAbsent(t, s, key)
	}
	for range 2 {
		if err := s.Delete(t.Context(), "runs/a/blobs/1"); err != nil {
			t.Errorf("Delete: %v", err)
		}
		wantAbsent(t, s, "runs/a/blobs/1")
	}
}

func lyingSize(t *testing.T, s checkpoints.Store) {
	for _, c := range []struct {
		held, announced int
	}{{10, 9}, {10, 11}, {10, 0}, {0, 1}, {3, -1}, {1 << 20, 1<<20 - 1}, {1 << 20, 1<<20 + 1}} {
		for name, r := range map[string]io.Reader{
			"bytes":  bytes.NewReader(content(1, c.held)),
			"stream": io.MultiReader(bytes.NewReader(content(1, c.held))),
		} {
			if err := s.Put(t.Context(), "a", r, int64(c.announced)); !errors.Is(err, checkpoints.ErrSize) {
				t.Errorf("%s of %d announced as %d: got %v, want ErrSize", name, c.held, c.announced, err)
			}
			wantAbsent(t, s, "a")
		}
	}
	put(t, s, "a", []byte("before"))
	if err := s.Put(t.Context(), "a", strings.NewReader("after"), 4); !errors.Is(err, checkpoints.ErrSize) {
		t.Errorf("got %v, want ErrSize", err)
	}
	if got := string(get(t, s, "a")); got != "before" {
		t.Errorf("a refused Put changed the object to %q", got)
	}
}

type brokenReader struct{ err error }

func (b brokenReader) Read([]byte) (int, error) { return 0, b.err }

func failingReader(t *testing.T, s checkpoints.Store) {
	broken := errors.New("the source broke")
	r := io.MultiReader(bytes.NewReader(content(1, 5000)), brokenReader{broken})
	if err := s.Put(t.Context(), "a", r, 10000); !errors.Is(err, broken) {
		t.Errorf("got %v, want the reader's error", err)
	}
	wantAbsent(t, s, "a")
}

func create(t *testing.T, s checkpoints.Store) {
	for i := range 2 {
		if err := s.Create(t.Context(), "a/1.json", []byte("mine")); err != nil {
			t.Fatalf("creation %d of the same bytes: %v", i+1, err)
		}
	}
	for _, other := range []string{"", "yours", "mine!"} {
		if err := s.Create(t.Context(), "a/1.json", []byte(other)); !errors.Is(err, checkpoints.ErrExists) {
			t.Errorf("Create of %q over another: got %v, want ErrExists", other, err)
		}
	}
	if got := string(get(t, s, "a/1.json")); got != "mine" {
		t.Errorf("the object is now %q", got)
	}
	if err := s.Create(t.Context(), "a/2.json", nil); err != nil {
		t.Errorf("Create of no bytes: %v", err)
	}
	if err := s.Delete(t.Context(), "a/1.json"); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(t.Context(), "a/1.json", []byte("yours")); err != nil {
		t.Errorf("Create of a key that is free again: %v", err)
	}
}

// race lets 16 callers create one key with data of their own, several times over.
func race(t *testing.T, s checkpoints.Store) {
	for round := range 8 {
		key := fmt.Sprintf("runs/a/checkpoints/%08d.json", round+1)
		errs := together(16, func(i int) error {
			return s.Create(t.Context(), key, fmt.Appendf(nil, "creator %d", i))
		})
		var winners []string
		for i, err := range errs {
			switch {
			case err == nil:
				winners = append(winners, fmt.Sprintf("creator %d", i))
			case !errors.Is(err, checkpoints.ErrExists):
				t.Errorf("creator %d: %v", i, err)
			}
		}
		if diff := cmp.Diff([]string{string(get(t, s, key))}, winners); diff != "" {
			t.Errorf("the object and those who were told that they created it (-object +told):\n%s", diff)
		}
	}
}

func raceSame(t *testing.T, s checkpoints.Store) {
	for i, err := range together(16, func(int) error { return s.Create(t.Context(), "a", []byte("same")) }) {
		if err != nil {
			t.Errorf("creator %d: %v", i, err)
		}
	}
}

// together runs n functions that start at one moment.
func together(n int, f func(i int) error) []error {
	errs := make([]error, n)
	start := make(chan struct{})
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			<-start
			errs[i] = f(i)
		})
	}
	close(start)
	all.Wait()
	return errs
}

func torn(t *testing.T, s checkpoints.Store) {
	const size = 300_000
	put(t, s, "a", bytes.Repeat([]byte{0}, size))
	errs := together(4, func(i int) error {
		for n := range 10 {
			if i < 2 {
				data := bytes.Repeat([]byte{byte(1 + i*10 + n)}, size)
				if err := s.Put(t.Context(), "a", bytes.NewReader(data), size); err != nil {
					return err
				}
				continue
			}
			body, err := s.Get(t.Context(), "a")
			if err != nil {
				return err
			}
			data, err := io.ReadAll(body)
			body.Close()
			if err != nil {
				return err
			}
			if len(data) != size || !bytes.Equal(data, bytes.Repeat(data[:1], size)) {
				return fmt.Errorf("%d bytes of different writers", len(data))
			}
		}
		return nil
	})
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
}

func list(t *testing.T, s checkpoints.Store) {
	all := []string{
		"runs/a-b/x", "runs/a/blobs/00", "runs/a/blobs/01", "runs/a/checkpoints/1.json",
		"runs/a/checkpoints/10.json", "runs/a/checkpoints/2.json", "runs/ab/x", "top",
	}
	for i := range all {
		put(t, s, all[len(all)-1-i], []byte("x"))
	}
	for prefix, want := range map[string][]string{
		"":                       all,
		"runs/":                  all[:7],
		"runs":                   all[:7],
		"runs/a":                 all[:7],
		"runs/a/":                all[1:6],
		"runs/a/blobs/":          all[1:3],
		"runs/a/checkpoints/1":   all[3:5],
		"runs/a/blobs/01":        all[2:3],
		"runs/c/":                nil,
		"runs/a/blobs/01/":       nil,
		"runs/a/blobs/01/deeper": nil,
		"t":                      all[7:],
	} {
		got, err := s.List(t.Context(), prefix)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("List %q (-want +got): %v\n%s", prefix, err, diff)
		}
	}
}

func badKeys(t *testing.T, s checkpoints.Store) {
	for _, key := range []string{
		"", "/", "/etc/passwd", "..", "../a", "a/../../b", "a/..", "a/./b", ".", "a//b", "a/", "/a",
		`a\b`, `..\a`, "a\x00b", "a\nb", ".hidden", "a/.tmp/b", ".tmp/a", "a b", "ä", "-a", "a:b", "%2e%2e/a",
		strings.Repeat("a", 600), strings.Repeat("a", 256),
	} {
		calls := map[string]func() error{
			"Put":    func() error { return s.Put(t.Context(), key, strings.NewReader("x"), 1) },
			"Create": func() error { return s.Create(t.Context(), key, []byte("x")) },
			"Get":    func() error { _, err := s.Get(t.Context(), key); return err },
			"Stat":   func() error { _, err := s.Stat(t.Context(), key); return err },
			"Delete": func() error { return s.Delete(t.Context(), key) },
		}
		if key != "" && key != "a/" { // which are prefixes
			calls["List"] = func() error { _, err := s.List(t.Context(), key); return err }
		}
		for name, call := range calls {
			if err := call(); !errors.Is(err, checkpoints.ErrKey) {
				t.Errorf("%s %q: got %v, want ErrKey", name, key, err)
			}
		}
	}
	if keys, err := s.List(t.Context(), ""); err != nil || len(keys) > 0 {
		t.Errorf("after refused calls the store holds %q (%v)", keys, err)
	}
}

func ended(t *testing.T, s checkpoints.Store) {
	put(t, s, "a", []byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, call := range map[string]func() error{
		"Put":    func() error { return s.Put(ctx, "b", strings.NewReader("x"), 1) },
		"Create": func() error { return s.Create(ctx, "b", []byte("x")) },
		"Get":    func() error { _, err := s.Get(ctx, "a"); return err },
		"Stat":   func() error { _, err := s.Stat(ctx, "a"); return err },
		"List":   func() error { _, err := s.List(ctx, ""); return err },
		"Delete": func() error { return s.Delete(ctx, "a") },
	} {
		if err := call(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v, want context.Canceled", name, err)
		}
	}
	wantAbsent(t, s, "b")
	if got := string(get(t, s, "a")); got != "x" {
		t.Errorf("got %q", got)
	}
}
