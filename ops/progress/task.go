package progress

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Task is one piece of work on a Display. Its methods may be called from several goroutines; counting never waits for
// the terminal.
type Task struct {
	display *Display
	name    string
	unit    string
	start   time.Time

	done  atomic.Int64
	base  atomic.Int64
	total atomic.Int64

	mu    sync.Mutex
	notes []note // in the order of their first appearance

	// under the display's lock
	rate    rate
	printed time.Time
}

type note struct{ key, value string }

// Resume sets how many items were done before the task began. They count as done, but not for the rates.
func (t *Task) Resume(done int64) {
	t.base.Store(done)
	t.done.Store(done)
}

// Set sets how many items are done.
func (t *Task) Set(done int64) { t.done.Store(done) }

// Add adds n items to those that are done.
func (t *Task) Add(n int64) { t.done.Add(n) }

// SetTotal sets the total number of items; 0 for unknown.
func (t *Task) SetTotal(total int64) { t.total.Store(total) }

// Note shows a value beside the progress until the next Note of the same key.
func (t *Task) Note(key string, value any) {
	n := note{key: clean(key), value: clean(format(value))}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.notes {
		if t.notes[i].key == n.key {
			t.notes[i] = n
			return
		}
	}
	t.notes = append(t.notes, n)
}

// Done ends the task and leaves its summary line. Calling it again does nothing.
func (t *Task) Done() { t.display.finish(t) }

// state returns what to show of the task at a time. The caller holds the display's lock.
func (t *Task) state(now time.Time) state {
	s := state{
		Time:    now.UTC().Format(time.RFC3339),
		Task:    t.name,
		Done:    t.done.Load(),
		Total:   t.total.Load(),
		Unit:    t.unit,
		Elapsed: now.Sub(t.start).Seconds(),
		Rate:    t.rate.perSecond(now),
	}
	if s.Elapsed > 0 {
		s.Mean = float64(s.Done-t.base.Load()) / s.Elapsed
	}
	if left := s.Total - s.Done; s.Total > 0 && left >= 0 && s.Rate > 0 {
		eta := float64(left) / s.Rate
		s.ETA = &eta
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s.notes = append(s.notes, t.notes...)
	if len(s.notes) > 0 {
		s.Notes = make(map[string]string, len(s.notes))
		for _, n := range s.notes {
			s.Notes[n.key] = n.value
		}
	}
	return s
}

// rate is an exponentially weighted mean of items per second, corrected for its empty start: it begins as the plain mean, and
// then gives less weight to older items. It is measured when items arrive, so work that takes a minute per item has a steady
// rate.
type rate struct {
	last   time.Time // when count last changed
	count  int64
	value  float64 // weighted sum
	gap    float64 // weighted sum of the seconds between two changes
	weight float64 // of all observations so far, below 1
}

const (
	// memory is the time in seconds after which an observation counts 1/e; at least slowest times an item's.
	memory  = 10.0
	slowest = 3.0
)

func (r *rate) observe(count int64, now time.Time) {
	dt := now.Sub(r.last).Seconds()
	if dt <= 0 || count == r.count {
		return
	}
	keep := math.Exp(-dt / max(memory, slowest*dt))
	r.value = keep*r.value + (1-keep)*float64(max(0, count-r.count))/dt
	r.gap = keep*r.gap + (1-keep)*dt
	r.weight = keep*r.weight + (1 - keep)
	r.last, r.count = now, count
}

// perSecond returns the rate. It falls once no item has arrived for slowest times the usual gap.
func (r *rate) perSecond(now time.Time) float64 {
	if r.weight == 0 {
		return 0
	}
	rate := r.value / r.weight
	if wait, usual := now.Sub(r.last).Seconds(), slowest*r.gap/r.weight; wait > usual {
		rate *= usual / wait
	}
	return rate
}

func format(value any) string {
	switch v := value.(type) {
	case float64:
		return fmt.Sprintf("%.4g", v)
	case float32:
		return fmt.Sprintf("%.4g", v)
	default:
		return fmt.Sprint(v)
	}
}
