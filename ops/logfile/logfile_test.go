package logfile_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/ldalign/ldalign/ops/logfile"
)

// TestRotation: writers that share a path, as processes do, lose no line but the oldest, tear none, and keep to the limits.
func TestRotation(t *testing.T) {
	const writers, lines = 4, 200
	limits := logfile.Limits{Bytes: 4 << 10, Keep: 3}
	path := filepath.Join(t.TempDir(), "ldalign.log")
	var all sync.WaitGroup
	for w := range writers {
		f, err := logfile.Open(path, limits)
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			for i := range lines {
				if _, err := fmt.Fprintf(f, "writer %d line %04d.\n", w, i); err != nil {
					t.Error(err)
				}
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	next := map[byte]int{}
	for _, suffix := range []string{".3", ".2", ".1", ""} { // oldest first
		data, err := os.ReadFile(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path + suffix)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v (%v)", info.Name(), info.Mode(), err)
		}
		if most := limits.Bytes + writers*22; int64(len(data)) > most {
			t.Errorf("%s has %d bytes, want %d at most", info.Name(), len(data), most)
		}
		for line := range strings.Lines(string(data)) {
			var w byte
			var i int
			if _, err := fmt.Sscanf(line, "writer %c line %d.\n", &w, &i); err != nil {
				t.Fatalf("a torn line %q", line)
			}
			if want, seen := next[w]; seen && i != want {
				t.Fatalf("writer %c: line %d follows line %d", w, i, want-1)
			}
			next[w] = i + 1
		}
	}
	for w, n := range next {
		if n != lines {
			t.Errorf("writer %c: the last line is %d", w, n-1)
		}
	}
	if _, err := os.Stat(path + ".4"); err == nil {
		t.Error("a fourth old file is kept")
	}
}
