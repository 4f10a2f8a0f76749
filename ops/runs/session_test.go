package runs

import (
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/ldalign/ldalign/checkpoints"
	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/streams"
)

// released closes a reader's connection when it is told that somebody waits for it.
type released struct{ reader *streams.Conn }

func (r released) Write(line []byte) (int, error) { return len(line), r.reader.Close() }

// A folder that a reader is about to leave is waited for.
func TestOpenWaitsForAReader(t *testing.T) {
	o := streams.Options{Dir: filepath.Join(t.TempDir(), "nats"), Name: "test", Log: zerolog.Nop()}
	first, err := streams.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	reader, err := streams.Attach(t.Context(), o.Dir, o)
	if err != nil {
		t.Fatal(err)
	}
	waiting := o
	waiting.Log = zerolog.New(released{reader})
	c, err := openFreed(t.Context(), waiting)
	if err = errors.Join(err, reader.Close()); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// A worker works with the store of the run's trainer: not with one that lacks the run, nor with one that has another run of the
// same name.
func TestJoinNeedsTheRunsStore(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Dir: t.TempDir(), Listen: free.Addr().String(), Name: "test", Log: zerolog.Nop()}
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	w := world{s, t}
	t.Cleanup(func() { w.must(s.Close()) })
	spec := w.finished("mine")

	other := t.TempDir()
	store, err := checkpoints.OpenDir(other)
	w.must(err)
	_, err = checkpoints.New(store, "", zerolog.Nop()).Commit(t.Context(), "mine", checkpoints.Draft{
		Kind: checkpoints.Policy, SpecDigest: "another", Files: []checkpoints.Source{checkpoints.FromBytes("weights", []byte("w"))},
	})
	w.must(err)
	for _, c := range []struct {
		dir  string
		says []string // nil: it is the run's store
	}{
		{dir: o.Dir},
		{dir: t.TempDir(), says: []string{"run mine is declared", "has no checkpoints below runs/mine/checkpoints/", "--bucket"}},
		{dir: other, says: []string{other, "00000001.json", "another", spec.Digest()[:12]}},
	} {
		joined, err := Join(t.Context(), Options{
			Dir: c.dir, Servers: schemas.ServersSpec{NATS: "nats://" + o.Listen}, Name: "worker", Log: zerolog.Nop(),
		}, "mine")
		if c.says == nil {
			w.must(err)
			w.must(joined.Close())
			continue
		}
		if !errors.Is(err, checkpoints.ErrOtherStore) {
			t.Errorf("%s: got %v, want ErrOtherStore", c.dir, err)
			continue
		}
		for _, want := range c.says {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: the error does not say %q: %v", c.dir, want, err)
			}
		}
	}
}
