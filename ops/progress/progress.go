// Package progress shows the progress of long work: one line for each task on a terminal, plain or JSON lines elsewhere.
//
// Several tasks run at the same time (generator, encoder, trainer), with log lines between them. One Display draws all of them,
// so that they do not garble each other. All writing goes through one lock. A single goroutine redraws; Close waits for it.
//
// A task that ends within two seconds only leaves its summary line. A longer one is redrawn at most ten times a second
// on a terminal, and printed every five seconds elsewhere.
package progress

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/mattn/go-isatty"
	"golang.org/x/term"
)

const (
	showAfter     = 2 * time.Second        // a shorter task shows no progress
	redrawEvery   = 100 * time.Millisecond // terminal
	printEvery    = 5 * time.Second        // lines and JSON, per task
	defaultWidth  = 80
	defaultHeight = 24
)

// Options are the options of a Display. With the zero value, the Display checks whether the writer is a terminal, and uses the
// machine's clock.
type Options struct {
	// Terminal draws live lines with escape sequences. It is also set if the writer is a terminal, TERM is not dumb, and JSON is
	// not set.
	Terminal bool
	// JSON prints one object per line in place of text, as often as plain lines.
	JSON bool
	// Width and Height of the terminal in cells; 0 asks the terminal itself at every redraw.
	Width, Height int
	// Now is the clock that rates and times are computed from.
	Now func() time.Time
}

// Display owns the writer until Close. Its methods may be called from several goroutines.
type Display struct {
	opts  Options
	color bool

	mu     sync.Mutex
	w      io.Writer
	err    error // first write error
	tasks  []*Task
	drawn  []string  // live lines now on the terminal
	when   time.Time // of the last redraw
	log    []byte    // log text that has no newline yet
	closed bool

	once    sync.Once
	stop    chan struct{}
	stopped chan struct{}
}

// New starts a display on w. The caller calls Close.
func New(w io.Writer, opts Options) *Display {
	d := newDisplay(w, opts)
	go d.run()
	return d
}

// newDisplay returns a display without the goroutine that redraws.
func newDisplay(w io.Writer, opts Options) *Display {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if f, ok := w.(*os.File); ok && isatty.IsTerminal(f.Fd()) && os.Getenv("TERM") != "dumb" {
		opts.Terminal = true
	}
	if opts.JSON {
		opts.Terminal = false
	}
	return &Display{
		opts:    opts,
		color:   opts.Terminal && os.Getenv("NO_COLOR") == "",
		w:       w,
		stop:    make(chan struct{}),
		stopped: make(chan struct{}),
	}
}

// Task starts a task, which is shown until its Done is called. A total of 0 means unknown: no percentage and no ETA are shown.
// Unit is the plural of what is counted ("prompts").
func (d *Display) Task(name string, total int64, unit string) *Task {
	t := &Task{display: d, name: clean(name), unit: clean(unit), start: d.opts.Now()}
	t.total.Store(total)
	t.rate.last = t.start
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.tasks = append(d.tasks, t)
	}
	return t
}

// Log returns a writer for log lines, which appear above the live lines. A line is held back until its newline or Close.
func (d *Display) Log() io.Writer { return (*logWriter)(d) }

// Close prints the log line that is held back and the summaries of unfinished tasks with progress, and waits for the display's
// goroutine. It returns the first error of the writer. Afterwards, tasks print nothing, and Log passes lines through.
func (d *Display) Close() error {
	d.once.Do(func() {
		close(d.stop)
		<-d.stopped
		d.end()
	})
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// end prints the log line that is held back and the summaries of unfinished tasks.
func (d *Display) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	d.erase()
	if len(d.log) > 0 {
		d.write(string(d.log) + "\n")
		d.log = nil
	}
	now := d.opts.Now()
	for _, t := range d.tasks {
		if t.done.Load() == t.base.Load() {
			continue // nothing was done, and an error says why
		}
		d.printSummary(t, now, false)
	}
	d.tasks = nil
}

// run draws until Close.
func (d *Display) run() {
	defer close(d.stopped)
	tick := time.NewTicker(redrawEvery)
	defer tick.Stop()
	for {
		select {
		case <-d.stop:
			return
		case <-tick.C:
			d.tick()
		}
	}
}

// tick measures the rates and prints the tasks that are due.
func (d *Display) tick() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	now := d.opts.Now()
	for _, t := range d.tasks {
		t.rate.observe(t.done.Load()-t.base.Load(), now)
	}
	if d.opts.Terminal {
		d.draw(now)
		return
	}
	for _, t := range d.tasks {
		if now.Sub(t.start) < showAfter || (!t.printed.IsZero() && now.Sub(t.printed) < printEvery) {
			continue
		}
		t.printed = now
		d.print(t.state(now))
	}
}

// finish takes a task off the display and prints its summary.
func (d *Display) finish(t *Task) {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := slices.Index(d.tasks, t)
	if d.closed || i < 0 {
		return
	}
	d.tasks = slices.Delete(d.tasks, i, i+1)
	now := d.opts.Now()
	d.erase()
	d.printSummary(t, now, true)
	d.redrawIfDue(now)
}

func (d *Display) printSummary(t *Task, now time.Time, complete bool) {
	s := t.state(now)
	s.Final = true
	s.Stopped = !complete
	d.print(s)
}

func (d *Display) print(s state) {
	if d.opts.JSON {
		line, err := json.Marshal(s)
		if err != nil { // a note that JSON cannot hold was made a string before: unreachable, but never silent
			d.keep(fmt.Errorf("progress: %w", err))
			return
		}
		d.write(string(line) + "\n")
		return
	}
	d.write(s.text() + "\n")
}

// draw redraws the live lines.
func (d *Display) draw(now time.Time) {
	var shown []state
	for _, t := range d.tasks {
		if now.Sub(t.start) >= showAfter {
			shown = append(shown, t.state(now))
		}
	}
	width, height := d.size()
	more := 0
	if room := max(1, height-2); len(shown) > room {
		more = len(shown) - room
		shown = shown[:room]
	}
	pad := 0
	for _, s := range shown {
		pad = max(pad, runes(s.Task))
	}
	var lines []string
	for _, s := range shown {
		lines = append(lines, s.bar(pad, width-1, d.color)) // a full line would wrap
	}
	if more > 0 {
		lines = append(lines, truncate(fmt.Sprintf("… and %d more", more), width-1))
	}
	d.when = now
	if slices.Equal(lines, d.drawn) {
		return
	}
	frame := d.upAndClear() // one write: no flicker
	for _, line := range lines {
		frame += line + "\n"
	}
	d.write(frame)
	d.drawn = lines
}

// redrawIfDue draws, unless the last redraw was less than a tenth of a second ago; the next tick draws then.
func (d *Display) redrawIfDue(now time.Time) {
	if d.opts.Terminal && !d.closed && now.Sub(d.when) >= redrawEvery {
		d.draw(now)
	}
}

// erase removes the live lines; the cursor is then where they began.
func (d *Display) erase() {
	if len(d.drawn) == 0 {
		return
	}
	d.write(d.upAndClear())
	d.drawn = nil
}

func (d *Display) upAndClear() string {
	if len(d.drawn) == 0 {
		return ""
	}
	return fmt.Sprintf("\x1b[%dA\r\x1b[J", len(d.drawn))
}

func (d *Display) write(s string) {
	_, err := io.WriteString(d.w, s)
	d.keep(err)
}

func (d *Display) keep(err error) {
	if d.err == nil && err != nil {
		d.err = err
	}
}

// size of the terminal in cells.
func (d *Display) size() (width, height int) {
	width, height = d.opts.Width, d.opts.Height
	if f, ok := d.w.(*os.File); ok && (width == 0 || height == 0) {
		if columns, rows, err := term.GetSize(int(f.Fd())); err == nil {
			if width == 0 {
				width = columns
			}
			if height == 0 {
				height = rows
			}
		}
	}
	if width == 0 {
		width = defaultWidth
	}
	if height == 0 {
		height = defaultHeight
	}
	return width, height
}

type logWriter Display

// Write prints the whole lines of p above the live lines and holds the rest.
func (l *logWriter) Write(p []byte) (int, error) {
	d := (*Display)(l)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return d.w.Write(p)
	}
	d.log = append(d.log, p...)
	end := lastNewline(d.log)
	if end == 0 {
		return len(p), nil
	}
	d.erase()
	if _, err := d.w.Write(d.log[:end]); err != nil {
		d.keep(err)
		return 0, err
	}
	d.log = append(d.log[:0], d.log[end:]...)
	d.redrawIfDue(d.opts.Now())
	return len(p), nil
}

// lastNewline returns the length of b up to and including its last newline; 0 without one.
func lastNewline(b []byte) int {
	for i := len(b); i > 0; i-- {
		if b[i-1] == '\n' {
			return i
		}
	}
	return 0
}
