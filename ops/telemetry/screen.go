package telemetry

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ldalign/ldalign/ops/progress"
	"github.com/ldalign/ldalign/ops/report"
	"github.com/ldalign/ldalign/ops/runs"
	"github.com/ldalign/ldalign/streams"
	"github.com/ldalign/ldalign/trainer/activity"
)

// Screen shows the progress of runs on a display, and adds up what each stage did in this process.
type Screen struct {
	display *progress.Display

	mu sync.Mutex
	// tasks are the lines of the display; nil for a finished one.
	tasks  map[work]*progress.Task
	stages map[string]*report.Stage
	steps  map[work]stepMark
	// waiting has, by run, the line that shows the trainer's wait for pairs, if a trainer runs in this process.
	waiting map[string]work
	// sampled has, by run, the number of responses in the generator's finished batches.
	sampled map[string]int
}

// work is one line of the display.
type work struct{ run, name string }

func (w work) compare(other work) int {
	return cmp.Or(cmp.Compare(w.run, other.run), cmp.Compare(w.name, other.name))
}

// stepMark is the number of steps of a phase that were done at a time.
type stepMark struct {
	done int
	at   time.Time
}

// NewScreen returns a Screen that shows progress on a display.
func NewScreen(display *progress.Display) *Screen {
	return &Screen{
		display: display, tasks: map[work]*progress.Task{}, stages: map[string]*report.Stage{}, steps: map[work]stepMark{},
		waiting: map[string]work{}, sampled: map[string]int{},
	}
}

// Observe shows the trainer's progress, and counts steps as the trainer's items.
func (s *Screen) Observe(e activity.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, away := e.(activity.StoreAway); away {
		return // the log warns of it, and warnings are on the screen
	}
	at := e.Progress()
	w := work{at.Run, e.String()}
	task := s.task(w, at.Done, at.Total, e.Unit())
	switch e := e.(type) {
	case activity.Training:
		now := time.Now()
		if last, ok := s.steps[w]; ok {
			s.add(runs.Trainer, e.Unit(), at.Done-last.done, now.Sub(last.at))
		}
		s.steps[w] = stepMark{at.Done, now}
		if task != nil {
			noteStep(task, e)
		}
	case activity.Waiting, activity.Reading:
		s.waiting[at.Run] = w
	}
	s.advance(task, w, at.Done, at.Total)
}

// noteStep shows values of the newest step, and of the newest probe of the guide.
func noteStep(task *progress.Task, e activity.Training) {
	if e.Last != nil {
		task.Note("loss", e.Last.Loss)
		if e.Last.Pairs != nil {
			task.Note("margin", e.Last.Pairs.Margin)
		}
	}
	if e.Probe != nil {
		task.Note("gap", e.Probe.Gap())
		task.Note("distance", e.Probe.Distance)
	}
}

// Evaluated shows how many of the policies are evaluated.
func (s *Screen) Evaluated(e Evaluated) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := work{e.Run, "evaluate"}
	s.advance(s.task(w, e.Done, e.Of, "policies"), w, e.Done, e.Of)
}

// Sampled shows the generator's progress: on the trainer's line if a trainer in this process waits for pairs, else on a line of
// its own.
func (s *Screen) Sampled(e Sampled) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if line, waits := s.waiting[e.Run]; waits {
		if task := s.tasks[line]; task != nil {
			task.Note("sampling", fmt.Sprintf("%d/%d", e.Done, e.Of))
		}
		return
	}
	if task := s.task(work{e.Run, "sample"}, 0, 0, "responses"); task != nil {
		task.Set(int64(s.sampled[e.Run] + e.Done))
	}
	if e.Done == e.Of {
		s.sampled[e.Run] += e.Of
	}
}

// Batch adds a batch to the sums of its stage.
func (s *Screen) Batch(e streams.BatchDone) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(e.Stage, "messages", e.Messages, e.Took)
}

// Settled is part of streams.Observer. It does nothing: retries and dead letters are in the log.
func (s *Screen) Settled(streams.MessageSettled) {}

// Silent is part of streams.Observer. It does nothing: the event is in the log.
func (s *Screen) Silent(streams.StageID) {}

// task returns the line of a piece of work, and starts it at the first call; nil once it has ended. The caller holds the lock.
func (s *Screen) task(w work, done, total int, unit string) *progress.Task {
	task, known := s.tasks[w]
	if !known {
		task = s.display.Task(w.run+": "+w.name, int64(total), unit)
		task.Resume(int64(done))
		s.tasks[w] = task
	}
	return task
}

// advance shows the progress of a piece of work, and ends its line when it is done. The caller holds the lock.
func (s *Screen) advance(task *progress.Task, w work, done, total int) {
	if task == nil {
		return
	}
	task.SetTotal(int64(total))
	task.Set(int64(done))
	if total > 0 && done >= total {
		task.Done()
		s.tasks[w] = nil
	}
}

// add adds to the sums of a stage. The caller holds the lock.
func (s *Screen) add(stage, unit string, n int, took time.Duration) {
	sum := s.stages[stage]
	if sum == nil {
		sum = &report.Stage{Name: stage, Unit: unit}
		s.stages[stage] = sum
	}
	sum.Items += int64(n)
	sum.BusySeconds += took.Seconds()
}

// Stages returns the sums of the stages that did any work, in the order of names.
func (s *Screen) Stages(names []string) []report.Stage {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []report.Stage
	for _, name := range names {
		if sum := s.stages[name]; sum != nil {
			out = append(out, *sum)
		}
	}
	return out
}

// End ends the remaining lines of a run.
func (s *Screen) End(run string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lines []work
	for w := range s.tasks {
		if w.run == run {
			lines = append(lines, w)
		}
	}
	slices.SortFunc(lines, work.compare)
	for _, w := range lines {
		if task := s.tasks[w]; task != nil {
			task.Done()
		}
		delete(s.tasks, w)
	}
	delete(s.waiting, run)
}

var _ Observer = (*Screen)(nil)
