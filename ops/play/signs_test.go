package play

import (
	"errors"
	"io"
	"os"
	"testing"
	"time"
)

// late is a process that takes its time until its first sign of life, and ends then.
type late time.Duration

func (l late) Read([]byte) (int, error) {
	time.Sleep(time.Duration(l))
	return 0, io.EOF
}

// TestSignsOfLife: whoever is silent is told from whoever is gone, and from whoever has not begun.
func TestSignsOfLife(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := awaitSilence(late(300*time.Millisecond), 30*time.Millisecond); !errors.Is(err, errGone) {
		t.Errorf("one that has not begun: got %v, want errGone", err)
	}
	if _, err := w.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	if err := awaitSilence(r, 30*time.Millisecond); !errors.Is(err, errSilent) {
		t.Errorf("a silent one: got %v, want errSilent", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := awaitSilence(r, time.Hour); !errors.Is(err, errGone) {
		t.Errorf("one that has ended: got %v, want errGone", err)
	}
}
