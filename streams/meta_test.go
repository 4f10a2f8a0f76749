package streams

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ldalign/ldalign/schemas"
	"github.com/ldalign/ldalign/schemas/events"
)

// A server that was killed while it wrote a stream's configuration does not keep the next one from opening the stream, even one
// that is started for reading only. Damaged configurations stay damaged.
func TestKilledWhileWritingAConfiguration(t *testing.T) {
	write := func(t *testing.T, path, text string, at time.Time) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		leave func(t *testing.T, config, sum string)
		lost  bool
	}{
		"before the checksum": {leave: func(t *testing.T, _, sum string) {
			t.Helper()
			if err := os.Remove(sum); err != nil {
				t.Fatal(err)
			}
		}},
		"before the checksum of a change": {leave: func(t *testing.T, _, sum string) {
			t.Helper()
			write(t, sum, "0123456789abcdef", time.Now().Add(-time.Hour))
		}},
		"damaged": {lost: true, leave: func(t *testing.T, _, sum string) {
			t.Helper()
			write(t, sum, "0123456789abcdef", time.Now().Add(time.Hour))
		}},
		"no configuration": {lost: true, leave: func(t *testing.T, config, sum string) {
			t.Helper()
			write(t, config, "{", time.Now())
			if err := os.Remove(sum); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c := openIn(t, dir, quick)
			publish(t, c, schemas.Prompts, promptList("r", 0, 3)...)
			want := idsOf(stored(t, c, schemas.Prompts, "r"))
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			folder := filepath.Join(dir, storeDir, "$G", "streams", StreamName(schemas.Prompts, "r"))
			test.leave(t, filepath.Join(folder, "meta.inf"), filepath.Join(folder, "meta.sum"))

			c, err := Attach(testContext(t), dir, Options{Limits: quick, Log: testLog(t)})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			err = c.Read(testContext(t), schemas.Prompts, "r", AllIterations, 0, func(Received) error { return nil })
			if (err != nil) != test.lost {
				t.Fatalf("read the stream: %v", err)
			}
			if test.lost {
				return
			}
			if diff := cmp.Diff(want, idsOf(stored(t, c, schemas.Prompts, "r"))); diff != "" {
				t.Errorf("prompts (-before +after):\n%s", diff)
			}
		})
	}
}

// A consumer whose checksum was not written keeps its position: the messages that its stage has settled are not delivered again.
func TestKilledWhileWritingAConsumer(t *testing.T) {
	dir := t.TempDir()
	c := openIn(t, dir, quick)
	s := generator("r", 2)
	count := func(done *atomic.Int64) Process {
		return Each(func(_ context.Context, in []*events.Prompt) ([]*events.Pair, []error) {
			out := make([]*events.Pair, len(in))
			for i, p := range in {
				done.Add(1)
				out[i] = pairOf(p)
			}
			return out, make([]error, len(in))
		})
	}
	publish(t, c, schemas.Prompts, promptList("r", 0, 3)...)
	var first, second atomic.Int64
	stop := start(t, c, s, count(&first))
	await(t, c, schemas.Pairs, "r", 3)
	settled(t, c, s)
	if err := errors.Join(stop(), c.Close()); err != nil {
		t.Fatal(err)
	}
	sums, err := filepath.Glob(filepath.Join(dir, storeDir, "$G", "streams", StreamName(schemas.Prompts, "r"), "obs", "*", "meta.sum"))
	if err != nil || len(sums) != 1 {
		t.Fatalf("%v, %v; want the checksum of one consumer", sums, err)
	}
	want, err := os.ReadFile(sums[0])
	if err := errors.Join(err, os.Remove(sums[0])); err != nil {
		t.Fatal(err)
	}

	c = openIn(t, dir, quick)
	if got, err := os.ReadFile(sums[0]); err != nil || string(got) != string(want) {
		t.Errorf("the checksum is %q, %v; the server had written %q", got, err, want)
	}
	start(t, c, s, count(&second))
	publish(t, c, schemas.Prompts, prompt("r", 0, 3))
	await(t, c, schemas.Pairs, "r", 4)
	settled(t, c, s)
	if first.Load() != 3 || second.Load() != 1 {
		t.Errorf("%d and %d prompts were worked on, want 3 and 1", first.Load(), second.Load())
	}
}
