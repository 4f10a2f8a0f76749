package runs

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/rs/zerolog"

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
