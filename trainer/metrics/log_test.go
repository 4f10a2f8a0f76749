package metrics

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestEventsAreTensorBoards compares with the bytes that TensorBoard's own package writes; see testdata/make_goldens.py.
func TestEventsAreTensorBoards(t *testing.T) {
	want, err := os.ReadFile("testdata/events.tfevents")
	if err != nil {
		t.Fatal(err)
	}
	start := time.UnixMilli(1700000000250)
	got := slices.Concat(
		record(versionEvent(start)), record(startEvent(start)),
		record(scalarsEvent(start.Add(time.Second), 1, []Value{{"loss", 0.6931471805599453}, {"rewards/chosen", -0.125}, {"grad_norm", 0}})),
		record(scalarsEvent(start.Add(300*time.Second), 300, []Value{{"loss", 1e-30}, {"tokens/s", 123456.789}})),
	)
	if !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
}

func step(phase string, iteration uint32, n int, clock *Clock) Step {
	return Step{
		Phase: phase, Iteration: iteration, Step: n, Clock: clock,
		Values: []Value{{"loss", 1 / float64(n)}, {"rewards/chosen", float64(iteration)}},
	}
}

func at(seconds int64) *Clock { return &Clock{time.UnixMilli(1000 * seconds), float64(100 * seconds)} }

func write(t *testing.T, dir string, history, more []Step) string {
	t.Helper()
	l, err := Open(dir, history)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range more {
		if err := l.Add(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return read(t, dir)
}

func read(t *testing.T, dir string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, File))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestGoingOn: a run that goes on from an earlier step has each step once, those that it keeps with the clock readings of
// their first time, and those that were lost without any.
func TestGoingOn(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, nil, []Step{
		step("guide", 0, 1, at(1)), step("policy", 0, 1, at(2)), step("policy", 0, 2, at(3)), step("policy", 0, 3, at(4)),
	})
	// killed in the middle of a line
	cut := strings.TrimSuffix(read(t, dir), "}\n")
	if err := os.WriteFile(filepath.Join(dir, File), []byte(cut), 0o600); err != nil {
		t.Fatal(err)
	}
	got := write(t, dir, []Step{
		step("guide", 0, 1, nil), step("guide", 0, 2, nil), step("policy", 0, 1, nil), step("policy", 0, 2, nil),
	}, []Step{step("policy", 0, 3, at(9)), step("policy", 1, 1, at(10))})
	want := `{"phase":"guide","iteration":0,"step":1,"global_step":1,"loss":1,"rewards/chosen":0,"tokens/s":100,"time":"1970-01-01T00:00:01.000Z"}
{"phase":"guide","iteration":0,"step":2,"global_step":2,"loss":0.5,"rewards/chosen":0}
{"phase":"policy","iteration":0,"step":1,"global_step":1,"loss":1,"rewards/chosen":0,"tokens/s":200,"time":"1970-01-01T00:00:02.000Z"}
{"phase":"policy","iteration":0,"step":2,"global_step":2,"loss":0.5,"rewards/chosen":0,"tokens/s":300,"time":"1970-01-01T00:00:03.000Z"}
{"phase":"policy","iteration":0,"step":3,"global_step":3,"loss":0.3333333333333333,"rewards/chosen":0,"tokens/s":900,"time":"1970-01-01T00:00:09.000Z"}
{"phase":"policy","iteration":1,"step":1,"global_step":4,"loss":1,"rewards/chosen":1,"tokens/s":1000,"time":"1970-01-01T00:00:10.000Z"}
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for phase, steps := range map[string]int{"guide": 2, "policy": 4} {
		files, err := filepath.Glob(filepath.Join(dir, "tensorboard", phase, "*"))
		if err != nil || len(files) != 1 {
			t.Fatalf("%s has event files %v, want one (%v)", phase, files, err)
		}
		data, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		if got := bytes.Count(data, []byte("loss")); got != steps {
			t.Errorf("%s: events of %d steps, want %d", phase, got, steps)
		}
	}
	if again := write(t, dir, []Step{step("guide", 0, 1, nil)}, nil); strings.Count(again, "\n") != 1 {
		t.Errorf("a run that begins again after its first step has\n%s", again)
	}
}

// TestNotANumber is left out of a line, which stays JSON.
func TestNotANumber(t *testing.T) {
	nan := Step{Phase: "policy", Step: 1, Values: []Value{{"loss", 1}, {"kl", nan()}}}
	if got, want := string(nan.line(1)), `{"phase":"policy","iteration":0,"step":1,"global_step":1,"loss":1}`+"\n"; got != want {
		t.Errorf("got %s", got)
	}
}

func nan() float64 { var zero float64; return zero / zero }

// TestOpenWhereNothingCanBeWritten says so, and leaves nothing open.
func TestOpenWhereNothingCanBeWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, nil); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v, want an error that names %s", err, dir)
	}
}

// FuzzOpen: whatever stands in the file, a run goes on with the lines of its steps and nothing else.
func FuzzOpen(f *testing.F) {
	f.Add([]byte(`{"phase":"policy","iteration":0,"step":1,"tokens/s":5,"time":"1970-01-01T00:00:01.000Z"}`))
	f.Add([]byte(`{"phase":"policy","step":-1,"time":"never"}` + "\n\x00\xff{\n"))
	f.Add(bytes.Repeat([]byte("x"), 1<<17))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, File), data, 0o600); err != nil {
			t.Fatal(err)
		}
		got := write(t, dir, []Step{step("policy", 0, 1, nil)}, nil)
		var line struct {
			Step int
			Loss float64
		}
		if err := json.Unmarshal([]byte(got), &line); err != nil || line.Step != 1 || line.Loss != 1 {
			t.Errorf("%s: %v", got, err)
		}
	})
}

// BenchmarkAdd is what a step costs the thread that trains.
func BenchmarkAdd(b *testing.B) {
	l, err := Open(b.TempDir(), nil)
	if err != nil {
		b.Fatal(err)
	}
	s := Step{Phase: "policy", Clock: at(1)}
	for i := range 20 {
		s.Values = append(s.Values, Value{"rewards/chosen", float64(i) / 7})
	}
	for b.Loop() {
		s.Step++
		if err := l.Add(s); err != nil {
			b.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
}
