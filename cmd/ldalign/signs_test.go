package main

import (
	"errors"
	"os"
	"testing"
	"time"
)

// TestSignsOfLife: whoever is silent is told from whoever is gone.
func TestSignsOfLife(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
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
