package progress

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock stands still until it is moved.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

// fixture is a display that draws when the test moves its clock.
type fixture struct {
	*Display
	out   bytes.Buffer
	clock clock
}

func newFixture(opts Options) *fixture {
	f := &fixture{clock: clock{time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)}}
	opts.Now = f.clock.now
	f.Display = newDisplay(&f.out, opts)
	return f
}

// wait moves the clock in steps of a tenth of a second.
func (f *fixture) wait(d time.Duration) {
	for end := f.clock.t.Add(d); f.clock.t.Before(end); {
		f.clock.t = f.clock.t.Add(redrawEvery)
		f.tick()
	}
}

func TestPlainLines(t *testing.T) {
	f := newFixture(Options{})
	task := f.Task("generator", 1000, "prompts")
	for range 120 { // 12 s at 50 prompts a second
		task.Add(5)
		f.wait(100 * time.Millisecond)
	}
	task.Note("loss", 0.6931471)
	task.Note("iteration", 2)
	task.Note("loss", 0.61)
	task.Done()
	task.Done()
	f.end()
	want := `generator: 100/1000 prompts, 10%, 50.0/s, eta 18.0s
generator: 350/1000 prompts, 35%, 50.0/s, eta 13.0s
generator: 600/1000 prompts, 60%, 50.0/s, eta 8.0s
generator: 600 prompts in 12.0s, 50.0/s, loss 0.61, iteration 2
`
	if diff := cmp.Diff(want, f.out.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestShortTaskLeavesOnlyItsSummary(t *testing.T) {
	for _, terminal := range []bool{false, true} {
		f := newFixture(Options{Terminal: terminal})
		task := f.Task("tokenizer", 0, "records")
		task.Set(30)
		f.wait(1900 * time.Millisecond)
		task.Done()
		f.end()
		if want, got := "tokenizer: 30 records in 1.9s, 15.8/s\n", f.out.String(); got != want {
			t.Errorf("terminal %v: want %q, got %q", terminal, want, got)
		}
	}
}

func TestCloseSaysWhereUnfinishedTasksStopped(t *testing.T) {
	f := newFixture(Options{})
	f.Task("trainer", 48, "steps").Set(20)
	f.clock.t = f.clock.t.Add(3 * time.Second)
	late := f.Task("evaluator", 300, "")
	late.Add(1)
	f.Task("encoder", 300, "") // has not begun: it says nothing
	f.end()
	late.Done()
	f.Task("after", 1, "").Done()
	want := "trainer: stopped at 20/48 steps after 3.0s\nevaluator: stopped at 1/300 after 0.0s\n"
	if diff := cmp.Diff(want, f.out.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestJSONLines(t *testing.T) {
	f := newFixture(Options{JSON: true, Terminal: true})
	task := f.Task("trainer", 40, "steps")
	task.Note("loss", 0.5)
	for range 20 {
		task.Add(1)
		f.wait(100 * time.Millisecond)
	}
	task.Done()
	var got []map[string]any
	for line := range strings.Lines(f.out.String()) {
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		got = append(got, v)
	}
	first := map[string]any{
		"time": "2030-01-02T03:04:07Z", "task": "trainer", "done": 20.0, "total": 40.0, "unit": "steps",
		"elapsed_seconds": 2.0, "rate": 10.0, "mean_rate": 10.0, "eta_seconds": 2.0, "notes": map[string]any{"loss": "0.5"},
	}
	last := map[string]any{"final": true}
	for k, v := range first {
		last[k] = v
	}
	near := cmp.Comparer(func(a, b float64) bool { return a-b < 1e-9 && b-a < 1e-9 })
	if diff := cmp.Diff([]map[string]any{first, last}, got, near); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestTerminal plays a run with log lines into a terminal and looks at its screen.
func TestTerminal(t *testing.T) {
	f := newFixture(Options{Terminal: true, Width: 100})
	f.color = true
	generator := f.Task("generator", 100, "prompts")
	trainer := f.Task("trainer", 0, "steps")
	fmt.Fprintln(f.Log(), "starting")
	for range 25 {
		generator.Add(2)
		f.wait(100 * time.Millisecond)
	}
	trainer.Note("loss", 0.61)
	fmt.Fprint(f.Log(), "half a line")
	f.wait(100 * time.Millisecond)
	live := []string{
		"starting",
		"generator  ━━━━━━━━━━╌╌╌╌╌╌╌╌╌╌   50%  50/100 prompts  20.0/s  eta 2.5s",
		"trainer    0 steps  0.0/s  2.6s  loss 0.61",
	}
	if diff := cmp.Diff(live, screen(t, f.out.String())); diff != "" {
		t.Errorf("live, -want +got:\n%s", diff)
	}

	fmt.Fprint(f.Log(), ", and its end\nnext\n")
	f.wait(100 * time.Millisecond)
	generator.Set(100)
	generator.Done()
	f.wait(100 * time.Millisecond)
	live = []string{
		"starting", "half a line, and its end", "next",
		"generator: 100 prompts in 2.7s, 37.0/s",
		"trainer  0 steps  0.0/s  2.8s  loss 0.61",
	}
	if diff := cmp.Diff(live, screen(t, f.out.String())); diff != "" {
		t.Errorf("after the generator, -want +got:\n%s", diff)
	}

	trainer.Set(7)
	trainer.Done()
	fmt.Fprint(f.Log(), "last words")
	f.end()
	want := append(live[:4:4], "trainer: 7 steps in 2.8s, 2.5/s, loss 0.61", "last words")
	if diff := cmp.Diff(want, screen(t, f.out.String())); diff != "" {
		t.Errorf("at the end, -want +got:\n%s", diff)
	}
}

func TestTerminalRedrawsAtMostTenTimesASecond(t *testing.T) {
	f := newFixture(Options{Terminal: true})
	task := f.Task("trainer", 1000, "steps")
	f.wait(2 * time.Second)
	before := strings.Count(f.out.String(), "\x1b[J")
	for i := range 1000 { // one second, a log line every millisecond
		task.Add(1)
		fmt.Fprintf(f.Log(), "step %d\n", i)
		f.clock.t = f.clock.t.Add(time.Millisecond)
		if i%100 == 99 {
			f.tick()
		}
	}
	if n := strings.Count(f.out.String(), "\x1b[J") - before; n == 0 || n > 11 {
		t.Errorf("want 1 to 11 redraws in a second, got %d", n)
	}
	if got := len(screen(t, f.out.String())); got != 1001 {
		t.Errorf("want 1000 log lines and one live line, got %d lines", got)
	}
}

func TestNarrowTerminalTruncates(t *testing.T) {
	f := newFixture(Options{Terminal: true, Width: 24, Height: 4})
	f.color = true
	for i := range 5 {
		f.Task(fmt.Sprintf("generator-%d", i), 9, "prompts").Set(3)
	}
	f.wait(2 * time.Second)
	want := []string{"generator-0   33%  3/9…", "generator-1   33%  3/9…", "… and 3 more"}
	got := screen(t, f.out.String())
	for _, line := range got {
		if runes(line) >= 24 {
			t.Errorf("%q fills the terminal's 24 cells: it wraps", line)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestColorOnlyOnATerminalWithoutNoColor(t *testing.T) {
	for _, tc := range []struct {
		terminal bool
		noColor  string
		want     bool
	}{{true, "", true}, {true, "1", false}, {false, "", false}} {
		t.Setenv("NO_COLOR", tc.noColor)
		f := newFixture(Options{Terminal: tc.terminal})
		f.Task("trainer", 9, "steps")
		f.wait(3 * time.Second)
		if got := strings.Contains(f.out.String(), "\x1b[1m"); got != tc.want {
			t.Errorf("terminal %v, NO_COLOR %q: want color %v, got %q", tc.terminal, tc.noColor, tc.want, f.out.String())
		}
	}
}

func TestNamesCannotMoveTheCursor(t *testing.T) {
	f := newFixture(Options{})
	task := f.Task("a\x1b[2Jb\n", 1, "c\r")
	task.Note("d\a", "e\n")
	f.end()
	if got := strings.TrimSuffix(f.out.String(), "\n"); strings.ContainsAny(got, "\x1b\n\r\a") {
		t.Errorf("control characters in %q", got)
	}
}

func TestRateForgets(t *testing.T) {
	f := newFixture(Options{})
	task := f.Task("generator", 0, "prompts")
	for range 100 {
		task.Add(10)
		f.wait(100 * time.Millisecond)
	}
	if got := task.rate.perSecond(f.clock.t); got < 99.9 || got > 100.1 {
		t.Errorf("at a steady rate: want 100/s, got %v", got)
	}
	f.wait(30 * time.Second) // three times the memory
	if got := task.rate.perSecond(f.clock.t); got > 5 {
		t.Errorf("after a standstill: want under 5/s, got %v", got)
	}
	task.Set(0) // a replay starts over
	f.wait(time.Second)
	if got := task.rate.perSecond(f.clock.t); got < 0 {
		t.Errorf("after going back: want no negative rate, got %v", got)
	}
}

func TestRateOfSlowWorkIsSteady(t *testing.T) {
	f := newFixture(Options{})
	task := f.Task("train", 10, "steps")
	task.Resume(4) // from before a restart: not made in this time
	for step := int64(5); step <= 7; step++ {
		f.wait(59 * time.Second)
		task.Set(step)
		f.wait(time.Second)
	}
	f.wait(50 * time.Second)
	s := task.state(f.clock.t)
	if s.Rate < 1/61.0 || s.Rate > 1/59.0 {
		t.Errorf("between two steps of a minute: want about %v a second, got %v", 1/60.0, s.Rate)
	}
	if s.ETA == nil || *s.ETA < 170 || *s.ETA > 190 {
		t.Errorf("three steps of a minute to go: want an ETA of 180 s, got %v", s.ETA)
	}
	if want := 3 / 230.0; s.Mean < want*0.99 || s.Mean > want*1.01 {
		t.Errorf("mean rate: want the three steps made here in 230 s, %v, got %v", want, s.Mean)
	}
}

func TestRateOfBatchesIsSteady(t *testing.T) {
	f := newFixture(Options{})
	task := f.Task("generator", 0, "pairs")
	for range 10 {
		f.wait(2 * time.Second)
		task.Add(256)
	}
	f.wait(time.Second)
	if got := task.rate.perSecond(f.clock.t); got < 120 || got > 136 {
		t.Errorf("between two batches of 256 in 2 s: want about 128/s, got %v", got)
	}
}

func TestDuration(t *testing.T) {
	for seconds, want := range map[float64]string{
		-1: "0.0s", 0.84: "0.8s", 59.94: "59.9s", 59.96: "1m00s", 185: "3m05s", 3599.6: "1h00m", 7620: "2h07m",
		1e300: "over 1000h",
	} {
		if got := duration(seconds); got != want {
			t.Errorf("%v: want %q, got %q", seconds, want, got)
		}
	}
}

// TestConcurrentUse is for the race detector, and checks that no log line is torn or lost.
func TestConcurrentUse(t *testing.T) {
	var out bytes.Buffer
	d := New(&out, Options{Terminal: true, Width: 60})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			task := d.Task(fmt.Sprint("task", i), 200, "items")
			for j := range 200 {
				task.Add(1)
				task.Note("j", j)
				fmt.Fprintf(d.Log(), "log %d %d\n", i, j)
			}
			task.Done()
		})
	}
	wg.Wait()
	for range 2 {
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Fprintln(d.Log(), "after")
	logs, summaries := 0, 0
	for _, line := range screen(t, out.String()) {
		switch {
		case strings.HasPrefix(line, "log "):
			logs++
		case strings.HasPrefix(line, "task"):
			summaries++
		}
	}
	if logs != 800 || summaries != 4 {
		t.Errorf("want 800 log lines and 4 summaries, got %d and %d", logs, summaries)
	}
}

func TestCloseReturnsTheWritersError(t *testing.T) {
	broken := errors.New("broken pipe")
	d := New(writerFunc(func([]byte) (int, error) { return 0, broken }), Options{})
	d.Task("trainer", 1, "steps").Done()
	if _, err := io.WriteString(d.Log(), "line\n"); !errors.Is(err, broken) {
		t.Errorf("Log: want the writer's error, got %v", err)
	}
	if err := d.Close(); !errors.Is(err, broken) {
		t.Errorf("Close: want the writer's error, got %v", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// screen interprets the sequences that the display uses, as a VT100 does, and returns the lines without the empty ones
// at the end.
func screen(t *testing.T, s string) []string {
	t.Helper()
	lines := [][]rune{nil}
	row, col := 0, 0
	in := []rune(s)
	for i := 0; i < len(in); i++ {
		switch r := in[i]; r {
		case '\n': // the terminal driver adds the carriage return
			row, col = row+1, 0
			if row == len(lines) {
				lines = append(lines, nil)
			}
		case '\r':
			col = 0
		case 0x1b:
			i++
			n := 0
			for i++; in[i] >= '0' && in[i] <= '9'; i++ {
				n = 10*n + int(in[i]-'0')
			}
			switch in[i] {
			case 'A':
				if row -= n; row < 0 {
					t.Fatalf("cursor above the first line")
				}
			case 'J':
				lines = lines[:row+1]
				lines[row] = lines[row][:min(col, len(lines[row]))]
			case 'm':
			default:
				t.Fatalf("unknown sequence ESC [ %d %c", n, in[i])
			}
		default:
			if col < len(lines[row]) {
				lines[row][col] = r
			} else {
				lines[row] = append(lines[row], r)
			}
			col++
		}
	}
	var out []string
	for _, line := range lines {
		out = append(out, string(line))
	}
	for len(out) > 0 && out[len(out)-1] == "" {
		out = out[:len(out)-1]
	}
	return out
}

func TestCount(t *testing.T) {
	for want, c := range map[string]struct {
		n    int64
		unit string
	}{
		"1 policy": {1, "policies"}, "2 policies": {2, "policies"}, "0 pairs": {0, "pairs"}, "1 pair": {1, "pairs"}, "1": {1, ""}, "3": {3, ""},
	} {
		if got := Count(c.n, c.unit); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
